-- Grain: one row per fold and item; numbers are dense and ascend with item_id (strings by UTF-8 bytes).
with

known as (
    select
        fold,
        item_id,
        count(*) as user_count
    from core_pairs
    group by fold, item_id
),

-- on sale from the first to the last fitted event, of any user
sales as (
    select
        fold,
        item_id,
        min(first_at) as first_at,
        max(last_at) as last_at
    from pairs
    group by fold, item_id
),

numbered as (
    select
        known.fold,
        known.item_id,
        cast(row_number() over (partition by known.fold order by known.item_id) - 1 as integer) as item,
        coalesce(stg_items.title, cast(known.item_id as varchar)) as title,
        stg_items.* exclude (item_id, title, source_row), -- noqa: RF02
        known.user_count,
        sales.first_at,
        sales.last_at
    from known
    inner join sales on known.fold = sales.fold and known.item_id = sales.item_id
    left join stg_items on known.item_id = stg_items.item_id
)

select * from numbered
order by fold, item
