-- Grain: one row per event without a user or an item, if source.missing_ids leaves those out.
select
    'missing_ids' as measure,
    user_id,
    item_id,
    event_at,
    source_row
from source_log
where getvariable('drop_missing_ids') and (user_id is null or item_id is null)
