-- Grain: one row per fold, user_id and item_id among the events the fold may fit on.
with

train as (
    select * exclude (part) from part_pairs
    where part = 'train'
),

validation as (
    select * exclude (part) from part_pairs
    where part = 'validation'
),

validation_repeats as (
    select validation.*
    from validation
    semi join repeats
        on
            validation.user_id = repeats.user_id
            and validation.item_id = repeats.item_id
            and repeats.part = 'validation'
),

validation_news as (
    select validation.*
    from validation
    anti join repeats
        on
            validation.user_id = repeats.user_id
            and validation.item_id = repeats.item_id
            and repeats.part = 'validation'
),

train_and_repeats as (
    select
        train.user_id,
        train.item_id,
        train.weight + coalesce(again.weight, 0) as weight,
        greatest(train.last_at, again.last_at) as last_at -- of what is not NULL
    from train
    left join validation_repeats as again on train.user_id = again.user_id and train.item_id = again.item_id
),

fitted as (
    select
        'validation' as fold,
        *
    from train
    union all
    select
        'test' as fold,
        *
    from train_and_repeats
    union all
    select
        'test' as fold,
        *
    from validation_news
)

select * from fitted
