-- Grain: one row per share: of described items without events, of events whose item is not described.
with

counts as (
    select
        count(*) filter (where measure = 'orphan_items') as orphan_items,
        coalesce(sum(events) filter (where measure = 'undescribed_events'), 0) as undescribed_events
    from offending_orphans
),

sizes as (
    select
        (select count(*) from stg_items) as items,
        (select sum(events) from profile_items) as events
),

shares as (
    select
        'orphan_items' as measure,
        counts.orphan_items / nullif(sizes.items, 0) as value,
        null as least,
        getvariable('max_orphan_share') as most
    from counts
    cross join sizes
    union all
    select
        'undescribed_events' as measure,
        counts.undescribed_events / nullif(sizes.events, 0) as value,
        null as least,
        getvariable('max_undescribed_share') as most
    from counts
    cross join sizes
)

select * from shares
where getvariable('has_items')
