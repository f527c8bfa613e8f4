-- Grain: one row, if all events happened at once and the split goes by time.
-- Allowed: at least two different times (split.kind = 'predefined' needs none).
select
    min(first_at) as event_at,
    sum(events) as events
from item_events
where getvariable('split_kind') <> 'predefined'
having min(first_at) = max(last_at)
