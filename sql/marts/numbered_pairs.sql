-- Grain: one row per user, item and part of the split, if fold test fits on both, in that fold's numbers;
-- is_repeat: an earlier part has the pair too. The triples and targets of both folds are views of this table,
-- as most pairs are in both folds, and writing is what takes time.
with

flagged_pairs as (
    select
        *,
        false as is_repeat
    from part_pairs
    where part = 'train'
    union all
    select
        later.*,
        repeats.part is not null as is_repeat
    from part_pairs as later
    left join repeats
        on later.user_id = repeats.user_id and later.item_id = repeats.item_id and later.part = repeats.part
    where later.part <> 'train'
)

select
    numbered_users.test_user,
    items.item as test_item,
    flagged_pairs.part,
    flagged_pairs.is_repeat,
    flagged_pairs.weight,
    flagged_pairs.last_at as event_at
from flagged_pairs
inner join numbered_users on flagged_pairs.user_id = numbered_users.user_id
inner join items on flagged_pairs.item_id = items.item_id and items.fold = 'test'
