-- Grain: one row per event later than now.
-- Allowed: times (read with source.time_format) up to prepare.now, by default the current time (UTC).
select
    source_row,
    user_id,
    item_id,
    event_at,
    getvariable('now') as now
from stg_interactions
where event_at > getvariable('now')
order by source_row
