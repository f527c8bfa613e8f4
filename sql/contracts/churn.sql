-- Grain: one row per kind of churn: the share of the last run's ids that are gone, of today's that are new.
with

sizes as (
    select
        (select count(*) from last_users) as last_user_count,
        (select count(*) from profile_users) as user_count,
        (select count(*) from last_items) as last_item_count,
        (select count(*) from profile_items) as item_count
),

bounds as (
    select
        'gone_users' as measure,
        last_user_count as ids,
        getvariable('max_gone_users') as most
    from sizes
    union all
    select
        'gone_items' as measure,
        last_item_count as ids,
        getvariable('max_gone_items') as most
    from sizes
    union all
    select
        'new_users' as measure,
        if(last_user_count > 0, user_count, 0) as ids,
        getvariable('max_new_users') as most
    from sizes
    union all
    select
        'new_items' as measure,
        if(last_item_count > 0, item_count, 0) as ids,
        getvariable('max_new_items') as most
    from sizes
),

counts as (
    select
        measure,
        count(*) as ids
    from offending_churn
    group by measure
)

select
    bounds.measure,
    coalesce(counts.ids, 0) / nullif(bounds.ids, 0) as value, -- NULL: nothing to compare with
    null as least,
    bounds.most
from bounds
left join counts on bounds.measure = counts.measure
