-- Grain: one row per user_id, item_id and part of the split; parts in their order, train < validation < test.
-- A log without weights is not made to sum ones: the condition is a constant. Column events is dropped once
-- profile_users has counted it.
select
    user_id,
    item_id,
    part,
    cast(count(*) as uinteger) as events,
    if(getvariable('has_weights'), sum(weight), count(*)) as weight,
    max(event_at) as last_at
from events
group by all
