-- Grain: one row: the starts of the windows [start, next start) of a split by time, else NULL.
with

kept_events as (
    select * from stg_interactions
    where weight > 0
),

extent as (
    select
        max(event_at) as last_at,
        count(*) filter (where part = 'validation') > 0 as has_validation_labels
    from kept_events
),

test_starts as (
    select
        *,
        coalesce(
            cast(getvariable('test_start') as timestamp),
            last_at - getvariable('test_days') * interval 1 day
        ) as test_start
    from extent
),

validation_starts as (
    select
        *,
        coalesce(
            cast(getvariable('validation_start') as timestamp),
            test_start - getvariable('validation_days') * interval 1 day
        ) as validation_start
    from test_starts
)

select
    if(getvariable('split_kind') = 'time', validation_start, null) as validation_start,
    if(getvariable('split_kind') = 'time', test_start, null) as test_start,
    has_validation_labels
from validation_starts
