-- Grain: one row: the number of events relative to the median of the last accepted logs.
with

medians as (
    select median(events) as last_events
    from past_runs
),

sizes as (
    select coalesce(sum(events), 0) as events
    from profile_items
)

select
    'volume' as measure,
    sizes.events / nullif(medians.last_events, 0) as value,
    getvariable('min_volume') as least,
    getvariable('max_volume') as most
from sizes
cross join medians
