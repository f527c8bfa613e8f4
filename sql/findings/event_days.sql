-- Grain: one row per day with events; of a log of more than ten million rows a sample of the rows is counted.
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
