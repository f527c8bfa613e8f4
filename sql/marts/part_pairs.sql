-- Grain: one row per user_id, item_id and part of the split; parts are ordered train < validation < test.
-- has_weights is a constant, so a log without weights does not sum ones. Column events is dropped after
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
