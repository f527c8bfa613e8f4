-- Grain: one row per kind of id: the share that differs from another id only in case and blanks.
with

kinds as (
    select
        'alike_users' as measure,
        count(*) as ids
    from profile_users
    union all
    select
        'alike_items' as measure,
        count(*) as ids
    from profile_items
),

counts as (
    select
        measure,
        sum(ids) as ids
    from offending_spelling
    group by measure
)

select
    kinds.measure,
    coalesce(counts.ids, 0) / nullif(kinds.ids, 0) as value,
    null as least,
    getvariable('max_alike_ids') as most
from kinds
left join counts on kinds.measure = counts.measure
