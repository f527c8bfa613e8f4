-- Grain: one row per described item as it is now; is_offered: it may be recommended before anybody has it.
with

log_ends as (
    select max(last_at) as last_at
    from part_pairs
)

select
    stg_items.* exclude (source_row), -- noqa: RF02
    stg_content.words,
    stg_content.vector,
    coalesce(
        not getvariable('has_listed')
        or (
            stg_content.listed_at <= getvariable('now')
            and stg_content.listed_at > log_ends.last_at - getvariable('new_days') * interval 1 day
        ),
        false
    ) as is_offered
from stg_items
inner join stg_content on stg_items.item_id = stg_content.item_id
cross join log_ends
order by stg_items.item_id
