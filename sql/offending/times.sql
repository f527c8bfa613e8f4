-- Grain: one row per day of old events, per day of events at midnight, and per span of days without any;
-- of a large log by the rows that sql/contracts/times.sql counts.
with

days as (
    select
        cast(event_at as date) as event_day,
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

gaps as (
    select
        event_day,
        date_diff('day', lag(event_day) over (order by event_day), event_day) - 1 as empty_days
    from days
),

offending as (
    select
        'old_share' as measure,
        'events of ' || event_day as what,
        old_events as how_many
    from days
    where old_events > 0
    union all
    select
        'midnight_share' as measure,
        'events at 00:00:00 of ' || event_day as what,
        midnight_events as how_many
    from days
    where midnight_events > 0
    union all
    select
        'empty_days' as measure,
        'days without events before ' || event_day as what,
        empty_days as how_many
    from gaps
    where empty_days > 0
)

select * from offending
