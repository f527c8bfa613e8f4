-- Grain: one row: the size of a log as read, and the number of rows that checks would refuse.
with

pairs as (
    select
        sum(weight) <= 1e-9 * sum(abs(weight)) as is_returned,
        count(*) filter (where weight < 0) as returned,
        count(*) filter (where weight > 0) as taken
    from source_log
    where user_id is not null and item_id is not null
    group by user_id, item_id
),

sums as (
    select count(*) filter (where returned > 0 and taken > 0 and is_returned) as netted_pairs
    from pairs
),

counts as (
    select
        count(*) as log_rows,
        count(distinct user_id) as user_count,
        count(distinct item_id) as item_count,
        count(*) filter (where user_id is null) as no_user,
        count(*) filter (where item_id is null) as no_item,
        count(*) filter (where user_id is null or item_id is null) as missing,
        count(*) filter (where weight < 0) as negative,
        count(*) filter (where weight = 0) as weightless,
        min(event_at) filter (where weight > 0 and isfinite(event_at)) as first_at,
        max(event_at) filter (where weight > 0 and isfinite(event_at)) as last_at
    from source_log
)

select
    counts.*,
    sums.netted_pairs
from counts
cross join sums
