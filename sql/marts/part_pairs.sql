-- Grain: one row per user_id, item_id and part of the split; parts in their order, train < validation < test.
select
    user_id,
    item_id,
    part,
    sum(weight) as weight,
    max(event_at) as last_at
from events
group by all
