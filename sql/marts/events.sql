-- Grain: one row per kept event, with its part of the split. Run for leave_last_out only: see steps.py.
-- All events of users with fewer than three items are in part train.
select
    net_events.* exclude (part),
    case recency.place
        when 1 then cast('test' as part)
        when 2 then cast('validation' as part)
        else net_events.part
    end as part
from net_events
left join recency on net_events.user_id = recency.user_id and net_events.item_id = recency.item_id
