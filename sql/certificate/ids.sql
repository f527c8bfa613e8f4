-- Grain: one row per fold and user or item that has a number, but nothing that the fold has fitted.
-- Holds: Only users and items with fitted events have a number: nobody has one for an event held out.
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

idle_users as (
    select
        users.fold,
        'user' as kind,
        cast(users.user_id as varchar) as id
    from users
    anti join fitted_users on users.fold = fitted_users.fold and users."user" = fitted_users."user"
),

idle_items as (
    select
        items.fold,
        'item' as kind,
        cast(items.item_id as varchar) as id
    from items
    anti join fitted_items on items.fold = fitted_items.fold and items.item = fitted_items.item
)

select * from idle_users
union all
select * from idle_items
