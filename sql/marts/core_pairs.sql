-- Grain: one row per fold, user_id and item_id left by one more round of the k-core; run until none leaves.
with

kept_items as (
    select
        fold,
        item_id
    from core_pairs
    group by fold, item_id
    having count(*) >= getvariable('min_users_per_item')
),

kept_users as (
    select
        fold,
        user_id
    from core_pairs
    group by fold, user_id
    having count(*) >= getvariable('min_items_per_user')
),

remaining as (
    select core_pairs.*
    from core_pairs
    semi join kept_items on core_pairs.fold = kept_items.fold and core_pairs.item_id = kept_items.item_id
    semi join kept_users on core_pairs.fold = kept_users.fold and core_pairs.user_id = kept_users.user_id
)

select * from remaining
