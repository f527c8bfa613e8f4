-- Grain: one row per item whose last event in the last run's log is later than all events of this log.
with

extent as (
    select max(last_at) as last_at
    from profile_items
)

select
    'hours_back' as measure,
    last_items.item_id,
    last_items.events,
    extent.last_at as log_ends,
    last_items.last_at as taken_at
from last_items
inner join extent on last_items.last_at > extent.last_at
