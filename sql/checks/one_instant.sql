-- Grain: one row, if all events have the same time and the split needs times.
-- Allowed: at least two different times (split.kind = 'predefined' needs no times).
select
    min(first_at) as event_at,
    sum(events) as events
from item_events
where getvariable('split_kind') <> 'predefined'
having min(first_at) = max(last_at)
