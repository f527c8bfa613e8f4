-- Grain: one row: by how many hours the log ends before the last run's log did.
with

extents as (
    select
        (select max(last_at) from profile_items) as log_ends,
        (select max(last_at) from last_items) as last_log_ended
)

select
    'hours_back' as measure,
    case -- NULL: nothing to compare with
        when log_ends < last_log_ended then date_diff('microsecond', log_ends, last_log_ended) / 3.6e9
        when log_ends >= last_log_ended then 0
    end as value,
    null as least,
    getvariable('max_hours_back') as most
from extents
