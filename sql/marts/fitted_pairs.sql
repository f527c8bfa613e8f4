-- Grain: one row per user_id and item_id among the events that fold test fits on; fold validation fits on a
-- subset, so in every later step its users, items and pairs are a subset of fold test's.
with

new_pairs as (
    select
        part_pairs.user_id,
        part_pairs.item_id
    from part_pairs
    anti join repeats
        on
            part_pairs.user_id = repeats.user_id
            and part_pairs.item_id = repeats.item_id
            and repeats.part = 'validation'
    where part_pairs.part = 'validation'
)

select
    user_id,
    item_id,
    true as in_validation
from part_pairs
where part = 'train'
union all
select
    *,
    false as in_validation
from new_pairs
