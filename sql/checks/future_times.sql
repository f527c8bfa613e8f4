-- Grain: one row per event later than now.
-- Allowed: times (read by source.time_format) up to prepare.now, the clock unless it is set (UTC).
select
    source_row,
    user_id,
    item_id,
    event_at,
    getvariable('now') as now
from stg_interactions
where event_at > getvariable('now')
order by source_row
