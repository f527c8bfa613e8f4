-- Grain: one row per event of a kind without a weight.
-- Allowed: each kind of event in source.event is a key of source.event_weights.
select
    stg_interactions.source_row,
    stg_interactions.user_id,
    stg_interactions.item_id,
    stg_interactions.event
from stg_interactions
anti join source_event_weights on stg_interactions.event = source_event_weights.event
where getvariable('has_event')
order by stg_interactions.source_row
