-- Grain: one row per user_id, item_id and part (validation or test), if an earlier part has the pair too.
with

later as (
    select
        user_id,
        item_id,
        part
    from part_pairs
    where part <> 'train'
)

select later.*
from later
semi join part_pairs as earlier
    on later.user_id = earlier.user_id and later.item_id = earlier.item_id and later.part > earlier.part
