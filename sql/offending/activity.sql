-- Grain: one row per user with more events than allowed.
select
    'events_per_user' as measure,
    user_id,
    events / sum(events) over () as share_of_events,
    events
from profile_users
qualify events > getvariable('max_events_per_user')
