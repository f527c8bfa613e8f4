-- Grain: one row per count of what was read, kept, fitted and held out.
with

fold_counts as (
    select
        'validation.users' as name,
        count(validation_user) as value
    from numbered_users
    union all
    select
        'test.users' as name,
        count(*) as value
    from numbered_users
    union all
    select
        fold || '.items' as name,
        count(*) as value
    from items
    group by fold
    union all
    select
        fold || '.pairs' as name,
        sum(user_count) as value
    from items
    group by fold
    union all
    select
        'validation.pairs_before_core' as name,
        sum(validation_users) as value
    from sales
    union all
    select
        'test.pairs_before_core' as name,
        sum(test_users) as value
    from sales
    union all
    select
        fold || '.new_items' as name,
        count(*) as value
    from new_items
    group by fold
    union all
    select
        fold || '.new_item_targets' as name,
        count(*) as value
    from new_targets
    group by fold
    union all
    select
        fold || '.mined_triplets' as name,
        count(*) as value
    from mined_triplets
    group by fold
),

window_users as (
    select
        profile_users.validation_items,
        profile_users.test_items,
        numbered_users.validation_user is null as new_to_validation,
        numbered_users.user_id is null as new_to_test
    from profile_users
    left join numbered_users on profile_users.user_id = numbered_users.user_id
    where profile_users.validation_items > 0 or profile_users.test_items > 0
),

window_user_counts as (
    select
        'validation' as fold,
        count(*) as window_users,
        count(*) filter (where new_to_validation) as window_users_unknown,
        sum(validation_items) as window_pairs,
        sum(if(new_to_validation, validation_items, 0)) as window_pairs_user_unknown
    from window_users
    where validation_items > 0
    union all
    select
        'test' as fold,
        count(*) as window_users,
        count(*) filter (where new_to_test) as window_users_unknown,
        sum(test_items) as window_pairs,
        sum(if(new_to_test, test_items, 0)) as window_pairs_user_unknown
    from window_users
    where test_items > 0
),

window_item_counts as (
    select
        item_parts.part as fold,
        count(*) as window_items,
        count(*) filter (where items.item_id is null) as window_items_unknown,
        sum(if(items.item_id is null, item_parts.pairs, 0)) as window_pairs_item_unknown
    from item_parts
    left join items on item_parts.part = items.fold and item_parts.item_id = items.item_id
    where item_parts.part <> 'train'
    group by item_parts.part
),

targets_of_users as ( -- one fold at a time: grouping both at once takes a third longer
    select
        'validation' as fold,
        count(*) as targets,
        count(*) filter (where is_new) as new_targets
    from targets
    where fold = 'validation'
    group by "user"
    union all
    select
        'test' as fold,
        count(*) as targets,
        count(*) filter (where is_new) as new_targets
    from targets
    where fold = 'test'
    group by "user"
),

target_counts as (
    select
        fold,
        sum(targets) as targets,
        count(*) as target_users,
        sum(new_targets) as new_targets,
        count(*) filter (where new_targets > 0) as new_target_users
    from targets_of_users
    group by fold
),

part_counts as (
    select
        cast(part as varchar) as part,
        sum(events) as events
    from item_events
    group by part
),

all_counts as (
    select
        'log.rows' as name,
        getvariable('log_rows') as value
    union all
    select
        'events' as name,
        sum(events) as value
    from part_counts
    union all
    select
        'events.' || part as name,
        events as value
    from part_counts
    union all
    select
        'users' as name,
        count(*) as value
    from profile_users
    union all
    select
        'items' as name,
        count(*) as value
    from profile_items
    union all
    select * from fold_counts
    union all
    select
        fold || '.' || name as name,
        value
    from (unpivot window_user_counts on columns(* exclude (fold)) into name name value value)
    union all
    select
        fold || '.' || name as name,
        value
    from (unpivot window_item_counts on columns(* exclude (fold)) into name name value value)
    union all
    select
        fold || '.' || name as name,
        value
    from (unpivot target_counts on columns(* exclude (fold)) into name name value value)
)

select
    name,
    cast(value as bigint) as value
from all_counts
order by name
