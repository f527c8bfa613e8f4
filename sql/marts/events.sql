-- Grain: one row per kept event, with its part of the split; an event of weight 0 is no interaction.
with

kept as (
    select * from stg_interactions
    where weight > 0
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
            when kept.event_at >= windows.test_start then 'test'
            when kept.event_at >= windows.validation_start then 'validation'
            -- leave_last_out: users of fewer than three items are only learnt from
            when recency.place = 1 then 'test'
            when recency.place = 2 then 'validation'
            when getvariable('split_kind') <> 'predefined' then 'train'
            -- predefined: without validation labels one train pair in ten becomes validation
            when kept.part <> 'train' or windows.has_validation_labels then kept.part
            when hash(getvariable('seed'), kept.user_id, kept.item_id) % 10 = 0 then 'validation'
            else 'train'
        end as part
    from kept
    cross join windows
    left join recency on kept.user_id = recency.user_id and kept.item_id = recency.item_id
)

select * from parted
