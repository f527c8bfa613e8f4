-- Grain: one row per item_id and part of the split; parts are ordered train < validation < test.
select
    item_id,
    part,
    count(*) as events,
    if(getvariable('has_weights'), sum(weight), count(*)) as weight,
    min(event_at) as first_at,
    max(event_at) as last_at
from events
group by all
