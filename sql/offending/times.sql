-- Grain: one row per day with old events, per day with events at midnight, and per gap without any.
with

gaps as (
    select
        event_day,
        date_diff('day', lag(event_day) over (order by event_day), event_day) - 1 as empty_days
    from event_days
)

select
    'old_share' as measure,
    'events of ' || event_day as what,
    old_events as how_many
from event_days
where old_events > 0
union all
select
    'midnight_share' as measure,
    'events at 00:00:00 of ' || event_day as what,
    midnight_events as how_many
from event_days
where midnight_events > 0
union all
select
    'empty_days' as measure,
    'days without events before ' || event_day as what,
    empty_days as how_many
from gaps
where empty_days > 0
