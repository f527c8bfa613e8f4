-- Grain: one row per item that the last run saw taken after this log's last event.
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
