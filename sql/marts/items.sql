-- Grain: one row per fold and item; numbers are dense and ascend with item_id (strings by UTF-8 bytes).
select
    core_items.fold,
    core_items.item_id,
    cast(row_number() over (partition by core_items.fold order by core_items.item_id) - 1 as integer) as item,
    coalesce(stg_items.title, cast(core_items.item_id as varchar)) as title,
    stg_items.* exclude (item_id, title, source_row), -- noqa: RF02
    core_items.user_count,
    sales.first_at,
    sales.last_at
from core_items
inner join sales on core_items.fold = sales.fold and core_items.item_id = sales.item_id
left join stg_items on core_items.item_id = stg_items.item_id
