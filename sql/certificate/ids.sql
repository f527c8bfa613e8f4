-- Grain: one row per fold and user or item that has an internal number, but no fitted events.
-- Holds: Only users and items with fitted events have an internal number; held-out events give none.
with

fitted_users as (
    select distinct
        fold,
        "user"
    from triples
),

fitted_items as (
    select distinct
        fold,
        item
    from triples
),

unfitted_users as (
    select
        users.fold,
        'user' as kind,
        cast(users.user_id as varchar) as id
    from users
    anti join fitted_users on users.fold = fitted_users.fold and users."user" = fitted_users."user"
),

unfitted_items as (
    select
        items.fold,
        'item' as kind,
        cast(items.item_id as varchar) as id
    from items
    anti join fitted_items on items.fold = fitted_items.fold and items.item = fitted_items.item
)

select * from unfitted_users
union all
select * from unfitted_items
