-- Grain: one row per fold, user and item fitted, in internal numbers, in no order.
with

-- a fold at a time: joins on one number are several times as fast as joins on fold and number
validation as (
    select
        cast('validation' as enum('test', 'validation')) as fold,
        users."user",
        items.item,
        fitted_pairs.weight,
        fitted_pairs.last_at as event_at
    from fitted_pairs
    inner join users on fitted_pairs.user_id = users.user_id and users.fold = 'validation'
    inner join items on fitted_pairs.item_id = items.item_id and items.fold = 'validation'
    where fitted_pairs.fold = 'validation'
),

test as (
    select
        cast('test' as enum('test', 'validation')) as fold,
        users."user",
        items.item,
        fitted_pairs.weight,
        fitted_pairs.last_at as event_at
    from fitted_pairs
    inner join users on fitted_pairs.user_id = users.user_id and users.fold = 'test'
    inner join items on fitted_pairs.item_id = items.item_id and items.fold = 'test'
    where fitted_pairs.fold = 'test'
)

select * from validation
union all
select * from test
