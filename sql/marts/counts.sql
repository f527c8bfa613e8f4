-- Grain: one row per counted thing: what was read, kept, fitted and held out.
with

fold_counts as (
    select
        fold || '.users' as name,
        count(*) as value
    from users
    group by fold
    union all
    select
        fold || '.items' as name,
        count(*) as value
    from items
    group by fold
    union all
    select
        fold || '.pairs' as name,
        count(*) as value
    from triples
    group by fold
    union all
    select
        fold || '.pairs_before_core' as name,
        count(*) as value
    from pairs
    group by fold
    union all
    select
        fold || '.mined_triplets' as name,
        count(*) as value
    from mined_triplets
    group by fold
),

window_counts as (
    select
        fold,
        count(distinct user_id) as window_users,
        count(distinct user_id) filter (where "user" is null) as window_users_unknown,
        count(*) as window_pairs,
        count(*) filter (where "user" is null) as window_pairs_user_unknown,
        count(*) filter (where item is null) as window_pairs_item_unknown
    from held_out
    group by fold
),

target_counts as (
    select
        fold,
        count(*) as targets,
        count(distinct "user") as target_users,
        count(*) filter (where is_new) as new_targets,
        count(distinct "user") filter (where is_new) as new_target_users
    from targets
    group by fold
),

counted as (
    select
        'log.rows' as name,
        count(*) as value
    from stg_interactions
    union all
    select
        'events' as name,
        count(*) as value
    from events
    union all
    select
        'events.' || part as name,
        count(*) as value
    from events
    group by part
    union all
    select
        'users' as name,
        count(distinct user_id) as value
    from events
    union all
    select
        'items' as name,
        count(distinct item_id) as value
    from events
    union all
    select * from fold_counts
    union all
    select
        fold || '.' || name as name,
        value
    from (unpivot window_counts on columns(* exclude (fold)) into name name value value)
    union all
    select
        fold || '.' || name as name,
        value
    from (unpivot target_counts on columns(* exclude (fold)) into name name value value)
)

select * from counted
order by name
