-- Grain: one row per item_id: how many events, and when the last; what the next run's contracts compare with.
select
    item_id,
    count(*) as events,
    max(event_at) as last_at
from stg_interactions
where weight > 0
group by item_id
