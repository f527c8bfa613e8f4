-- Grain: one row per fold and item; numbers are dense and ascend with item_id (strings by UTF-8 bytes).
with

fold_items as (
    select
        'validation' as fold,
        core_items.item_id,
        core_items.validation_users as user_count,
        sales.validation_first_at as first_at,
        sales.validation_last_at as last_at
    from core_items
    inner join sales on core_items.item_id = sales.item_id
    where core_items.in_validation
    union all
    select
        'test' as fold,
        core_items.item_id,
        core_items.test_users as user_count,
        sales.test_first_at as first_at,
        sales.test_last_at as last_at
    from core_items
    inner join sales on core_items.item_id = sales.item_id
)

select
    fold_items.fold,
    fold_items.item_id,
    cast(row_number() over (partition by fold_items.fold order by fold_items.item_id) - 1 as integer) as item,
    coalesce(stg_items.title, cast(fold_items.item_id as varchar)) as title,
    stg_items.* exclude (item_id, title, source_row), -- noqa: RF02
    fold_items.user_count,
    fold_items.first_at,
    fold_items.last_at
from fold_items
left join stg_items on fold_items.item_id = stg_items.item_id
