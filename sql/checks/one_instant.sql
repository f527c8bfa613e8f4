-- Grain: one row, if all events happened at once and the split goes by time.
-- Allowed: at least two different times (split.kind = 'predefined' needs none).
select
    min(event_at) as event_at,
    count(*) as events
from events
where getvariable('split_kind') <> 'predefined'
having min(event_at) = max(event_at)
