-- Grain: one row per fold, user_id and item_id among the events the fold may fit on.
with

fitted as (
    select
        'validation' as fold,
        *
    from events
    where part = 'train'
    union all
    select
        'test' as fold,
        *
    from events
    where part in ('train', 'validation')
),

repeated as (
    select
        fold,
        user_id,
        item_id,
        count(*) as event_count,
        sum(weight) as weight,
        min(event_at) as first_at,
        max(event_at) as last_at
    from fitted
    group by fold, user_id, item_id
)

select * from repeated
