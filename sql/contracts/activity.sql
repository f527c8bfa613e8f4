-- Grain: one row: the number of events of the most active user.
select
    'events_per_user' as measure,
    max(events) as value,
    null as least,
    getvariable('max_events_per_user') as most
from profile_users
