-- Grain: one row per fold that has too little left to fit.
-- Allowed: two users and two items or more, once split.min_users_per_item and min_items_per_user hold.
with

folds as (
    select
        folds.fold,
        count(distinct core_pairs.user_id) as user_count,
        count(distinct core_pairs.item_id) as item_count
    from (values ('validation'), ('test')) as folds (fold)
    left join core_pairs on folds.fold = core_pairs.fold
    group by folds.fold
)

select * from folds
where user_count < 2 or item_count < 2
order by fold desc
