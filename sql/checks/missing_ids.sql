-- Grain: one row per event without a user or an item.
-- Allowed: ids are not NULL; whole numbers are within -2^63..2^63 - 1, and any beyond is shown as NULL.
select
    source_row,
    user_id,
    item_id
from stg_interactions
where user_id is null or item_id is null
order by source_row
