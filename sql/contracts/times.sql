-- Grain: one row per measure of how plausible the times are: the share of old events, of events at midnight,
-- and of days without events between the first and the last; NULL for a log without times.
with

totals as (
    select
        sum(events) as events,
        sum(midnight_events) as midnight_events,
        sum(old_events) as old_events,
        count(*) as days_with_events,
        date_diff('day', min(event_day), max(event_day)) + 1 as days_between
    from event_days
)

select
    'old_share' as measure,
    old_events / nullif(events, 0) as value,
    null as least,
    getvariable('max_old_share') as most
from totals
union all
select
    'midnight_share' as measure,
    midnight_events / nullif(events, 0) as value,
    null as least,
    getvariable('max_midnight_share') as most
from totals
union all
select
    'empty_days' as measure,
    1 - days_with_events / nullif(days_between, 0) as value,
    null as least,
    getvariable('max_empty_days') as most
from totals
