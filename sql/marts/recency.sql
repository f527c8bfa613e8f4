-- Grain: one row per user of three items or more and item, their last two; for leave_last_out alone.
-- By the time of a user's first event with an item; ties by item_id.
with

firsts as (
    select
        user_id,
        item_id,
        min(event_at) as first_at
    from net_events
    group by user_id, item_id
),

placed as (
    select
        user_id,
        item_id,
        row_number() over (partition by user_id order by first_at desc, item_id desc) as place,
        count(*) over (partition by user_id) as user_items
    from firsts
)

select
    user_id,
    item_id,
    place
from placed
where place <= 2 and user_items >= 3
