-- Grain: one row per user with at least three items and their last two items, for leave_last_out only.
-- Items are ordered by the time of the user's first event with them; ties by item_id.
with

first_events as (
    select
        user_id,
        item_id,
        min(event_at) as first_at
    from net_events
    group by user_id, item_id
),

ranked_pairs as (
    select
        user_id,
        item_id,
        row_number() over (partition by user_id order by first_at desc, item_id desc) as place,
        count(*) over (partition by user_id) as user_items
    from first_events
)

select
    user_id,
    item_id,
    place
from ranked_pairs
where place <= 2 and user_items >= 3
