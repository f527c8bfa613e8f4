-- Grain: one row per fold with too few users or items to fit.
-- Allowed: at least two users and two items after split.min_users_per_item and min_items_per_user.
with

user_counts as (
    select
        fold,
        count(*) as user_count
    from users
    group by fold
),

item_counts as (
    select
        fold,
        count(*) as item_count
    from items
    group by fold
),

sizes as (
    select
        folds.fold,
        coalesce(user_counts.user_count, 0) as user_count,
        coalesce(item_counts.item_count, 0) as item_count
    from (values ('validation'), ('test')) as folds (fold)
    left join user_counts on folds.fold = user_counts.fold
    left join item_counts on folds.fold = item_counts.fold
)

select * from sizes
where user_count < 2 or item_count < 2
order by fold desc
