-- Grain: one row per fold and new item: described, not fitted and, where it is known when items are listed,
-- listed by the end of the fold's window (today for fold test), and at most items.new_days before that end.
-- Its number goes on after those of the fold's items, ascending with item_id.
with

log_ends as (
    select max(last_at) as last_at
    from item_parts
),

windows_of_folds as (
    select
        'validation' as fold,
        coalesce(windows.test_start, log_ends.last_at) as listed_until,
        coalesce(windows.test_start, log_ends.last_at) as end_at
    from windows
    cross join log_ends
    union all
    select
        'test' as fold,
        greatest(cast(getvariable('now') as timestamp), log_ends.last_at) as listed_until,
        log_ends.last_at as end_at
    from log_ends
),

fold_sizes as (
    select
        fold,
        count(*) as item_count
    from items
    group by fold
),

offered as (
    select
        windows_of_folds.fold,
        stg_content.item_id
    from stg_content
    cross join windows_of_folds
    where
        not getvariable('has_listed')
        or (
            stg_content.listed_at <= windows_of_folds.listed_until
            and stg_content.listed_at > windows_of_folds.end_at - getvariable('new_days') * interval 1 day
        )
),

unfitted as (
    select offered.*
    from offered
    anti join items on offered.fold = items.fold and offered.item_id = items.item_id
    -- what is held out for test is no candidate before
    anti join cold_items
        on offered.item_id = cold_items.item_id and offered.fold = 'validation' and cold_items.part = 'test'
)

select
    unfitted.fold,
    unfitted.item_id,
    cast(
        fold_sizes.item_count + row_number() over (partition by unfitted.fold order by unfitted.item_id) - 1
        as integer
    ) as item,
    coalesce(stg_items.title, cast(unfitted.item_id as varchar)) as title,
    stg_items.* exclude (item_id, title, source_row) -- noqa: RF02
from unfitted
inner join fold_sizes on unfitted.fold = fold_sizes.fold
left join stg_items on unfitted.item_id = stg_items.item_id
