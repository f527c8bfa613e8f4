-- Grain: one row per event whose user or item id is text with a null character.
-- Allowed: ids without null characters (value 0), which csv files cannot hold.
select
    source_row,
    user_id,
    item_id
from stg_interactions
where
    (typeof(user_id) = 'VARCHAR' and contains(cast(user_id as varchar), chr(0)))
    or (typeof(item_id) = 'VARCHAR' and contains(cast(item_id as varchar), chr(0)))
order by source_row
