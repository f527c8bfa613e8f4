-- Grain: one row per user_id and item_id of the log as it is now, all parts of the split together.
select
    user_id,
    item_id
from part_pairs
group by user_id, item_id
order by user_id, item_id
