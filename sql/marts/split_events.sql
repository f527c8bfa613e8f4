-- Grain: one row per kept event, with its part of a split by time or by labels; weight 0 is no interaction,
-- one below 0 a return, which net_events takes off.
-- Parts are an enum, in their order: text would make every table of events several times as slow to group.
with

kept as (
    select * from stg_interactions
    where weight > 0 or (getvariable('returns') = 'net' and weight < 0)
),

parted as (
    select
        kept.source_row,
        kept.user_id,
        kept.item_id,
        kept.event_at,
        kept.weight,
        case
            -- time: the starts are NULL under other kinds
            when kept.event_at >= windows.test_start then cast('test' as part)
            when kept.event_at >= windows.validation_start then cast('validation' as part)
            when getvariable('split_kind') <> 'predefined' then cast('train' as part)
            -- predefined: without validation labels one train pair in ten becomes validation
            when kept.part <> 'train' or windows.has_validation_labels then cast(kept.part as part)
            when hash(getvariable('seed'), kept.user_id, kept.item_id) % 10 = 0
                then cast('validation' as part)
            else cast('train' as part)
        end as part
    from kept
    cross join windows
)

select * from parted
