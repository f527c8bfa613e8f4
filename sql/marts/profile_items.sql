-- Grain: one row per item_id: its number of events and the last one; for the contracts of the next run too.
select
    item_id,
    cast(sum(events) as bigint) as events,
    max(last_at) as last_at
from item_events
group by item_id
