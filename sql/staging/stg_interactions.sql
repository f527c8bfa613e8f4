-- Grain: one row per event of the log, with final names and types; rows without ids may be left out.
with

source as (
    select * from source_log
    where not getvariable('drop_missing_ids') or (user_id is not null and item_id is not null)
)

select
    source.source_row,
    source.user_id,
    source.item_id,
    source.event_at,
    source.event,
    source.part,
    coalesce(source_event_weights.weight, source.weight) as weight
from source
left join source_event_weights on source.event = source_event_weights.event
