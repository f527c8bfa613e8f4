-- Grain: one row: the most active user of the staged log, and the 99th percentile of events per user.
select
    max_by(user_id, events) as user_id,
    max(events) as events,
    quantile_disc(events, 0.99) as usual_events,
    max(events) / sum(events) as share_of_events
from profile_users
