-- Grain: one row per item_id: how many events, and when the last; what the next run's contracts compare with.
select
    item_id,
    cast(sum(events) as bigint) as events,
    max(last_at) as last_at
from item_events
group by item_id
