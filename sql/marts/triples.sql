-- Grain: one row per fold, user and item fitted, in internal numbers.
with

numbered as (
    select
        core_pairs.fold,
        users."user",
        items.item,
        core_pairs.weight,
        core_pairs.event_count,
        core_pairs.last_at as event_at
    from core_pairs
    inner join users on core_pairs.fold = users.fold and core_pairs.user_id = users.user_id
    inner join items on core_pairs.fold = items.fold and core_pairs.item_id = items.item_id
)

select * from numbered
order by fold, "user", item
