-- Grain: one row per user, item and part of the split, both fitted by fold test, in the numbers of that fold;
-- again: an earlier part has the pair too. Both folds' triples and targets are views of this: most pairs are
-- in both, and writing them is what costs.
with

flagged as (
    select
        *,
        false as again
    from part_pairs
    where part = 'train'
    union all
    select
        later.*,
        repeats.part is not null as again
    from part_pairs as later
    left join repeats
        on later.user_id = repeats.user_id and later.item_id = repeats.item_id and later.part = repeats.part
    where later.part <> 'train'
)

select
    numbered_users.test_user,
    items.item as test_item,
    flagged.part,
    flagged.again,
    flagged.weight,
    flagged.last_at as event_at
from flagged
inner join numbered_users on flagged.user_id = numbered_users.user_id
inner join items on flagged.item_id = items.item_id and items.fold = 'test'
