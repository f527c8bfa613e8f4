-- Grain: one row per described item without events, and per item with events that is not described.
with

orphans as (
    select
        'orphan_items' as measure,
        stg_items.item_id,
        stg_items.title,
        0 as events
    from stg_items
    anti join profile_items on stg_items.item_id = profile_items.item_id
    union all
    select
        'undescribed_events' as measure,
        profile_items.item_id,
        null as title,
        profile_items.events
    from profile_items
    anti join stg_items on profile_items.item_id = stg_items.item_id
)

select * from orphans
where getvariable('has_items')
