-- Grain: one row per kept event, with its part of a split by time or by labels; events of weight 0 are left
-- out; a negative weight is a return, which net_events subtracts.
-- Parts are an enum: grouping a table of events by text takes several times as long.
with

kept_events as (
    select * from stg_interactions
    where weight > 0 or (getvariable('returns') = 'net' and weight < 0)
)

select
    kept_events.source_row,
    kept_events.user_id,
    kept_events.item_id,
    kept_events.event_at,
    kept_events.weight,
    case
        when cold_items.part is not null then cold_items.part
        -- time: the starts are NULL under other kinds
        when kept_events.event_at >= windows.test_start then cast('test' as part)
        when kept_events.event_at >= windows.validation_start then cast('validation' as part)
        when getvariable('split_kind') <> 'predefined' then cast('train' as part)
        -- predefined: without validation labels one train pair in ten becomes validation
        when kept_events.part <> 'train' or windows.has_validation_labels
            then cast(kept_events.part as part)
        when hash(getvariable('seed'), kept_events.user_id, kept_events.item_id) % 10 = 0
            then cast('validation' as part)
        else cast('train' as part)
    end as part
from kept_events
cross join windows
left join cold_items on kept_events.item_id = cold_items.item_id
