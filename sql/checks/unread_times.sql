-- Grain: one row per event whose time is missing or no time at all.
-- Allowed: source.time holds finite timestamps, dates or ISO 8601 text such as 2024-05-31T18:00:00Z.
select
    source_row,
    user_id,
    item_id,
    coalesce(unread_time, cast(event_at as varchar)) as event_at
from stg_interactions
where getvariable('has_time') and (event_at is null or not isfinite(event_at))
order by source_row
