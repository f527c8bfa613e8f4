-- Grain: one row per share that tells how plausible times are: of old events, of those at midnight, of days
-- without any between the first and the last. Nothing is said of a log without times. Of a log of more than
-- ten million rows it is told by one row in so many.
with

days as (
    select
        cast(event_at as date) as event_day,
        count(*) as events,
        count(*) filter (where event_at = date_trunc('day', event_at)) as midnight_events,
        count(*) filter (
            where event_at < getvariable('now') - to_days(cast(365.25 * getvariable('past_years') as integer))
        ) as old_events
    from stg_interactions
    where
        weight > 0
        and getvariable('has_time')
        and source_row
        & ((1 << cast(greatest(floor(log2(getvariable('log_rows') / 5e6)), 0) as bigint)) - 1)
        = 0
    group by all
),

totals as (
    select
        sum(events) as events,
        sum(midnight_events) as midnight_events,
        sum(old_events) as old_events,
        count(*) as days_with_events,
        date_diff('day', min(event_day), max(event_day)) + 1 as days_between
    from days
),

shares as (
    select
        'old_share' as measure,
        old_events / nullif(events, 0) as value,
        getvariable('max_old_share') as most
    from totals
    union all
    select
        'midnight_share' as measure,
        midnight_events / nullif(events, 0) as value,
        getvariable('max_midnight_share') as most
    from totals
    union all
    select
        'empty_days' as measure,
        1 - days_with_events / nullif(days_between, 0) as value,
        getvariable('max_empty_days') as most
    from totals
)

select
    measure,
    value,
    null as least,
    most
from shares
