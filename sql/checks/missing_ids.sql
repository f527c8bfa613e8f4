-- Grain: one row per event without a user or an item.
-- Allowed: ids that are not NULL, NaN or blank; source.missing_ids = 'drop' leaves such rows out.
select
    source_row,
    user_id,
    item_id
from stg_interactions
where user_id is null or item_id is null
order by source_row
