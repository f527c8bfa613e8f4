-- Grain: one row per fold, user and item fitted, in internal numbers, in no order.
with

repeated_pairs as (
    select * from numbered_pairs
    where part = 'validation' and is_repeat
),

validation_triples as (
    select
        cast('validation' as enum('test', 'validation')) as fold,
        "user",
        item,
        weight,
        event_at
    from validation_pairs
    where part = 'train'
),

train_pairs as (
    select
        cast('test' as enum('test', 'validation')) as fold,
        train.test_user as "user",
        train.test_item as item,
        train.weight + coalesce(repeated_pairs.weight, 0) as weight,
        greatest(train.event_at, repeated_pairs.event_at) as event_at -- ignores NULL
    from numbered_pairs as train
    left join repeated_pairs
        on train.test_user = repeated_pairs.test_user and train.test_item = repeated_pairs.test_item
    where train.part = 'train'
),

new_pairs as (
    select
        cast('test' as enum('test', 'validation')) as fold,
        test_user as "user",
        test_item as item,
        weight,
        event_at
    from numbered_pairs
    where part = 'validation' and not is_repeat
)

select * from validation_triples
union all
select * from train_pairs
union all
select * from new_pairs
