-- Grain: one row: hours from the last event to now.
select
    'age_hours' as measure,
    date_diff('microsecond', max(last_at), getvariable('now')) / 3.6e9 as value,
    null as least,
    getvariable('max_age_hours') as most
from profile_items
