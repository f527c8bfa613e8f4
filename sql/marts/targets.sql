-- Grain: one row per fold, user and item held out, both known to the fold; is_new: not among its triples.
with

validation as (
    select
        cast('validation' as enum('test', 'validation')) as fold,
        users."user",
        items.item,
        part_pairs.last_at as event_at,
        repeats.part is null as is_new
    from part_pairs
    inner join users on part_pairs.user_id = users.user_id and users.fold = 'validation'
    inner join items on part_pairs.item_id = items.item_id and items.fold = 'validation'
    left join repeats
        on
            part_pairs.user_id = repeats.user_id
            and part_pairs.item_id = repeats.item_id
            and repeats.part = 'validation'
    where part_pairs.part = 'validation'
),

test as (
    select
        cast('test' as enum('test', 'validation')) as fold,
        users."user",
        items.item,
        part_pairs.last_at as event_at,
        repeats.part is null as is_new
    from part_pairs
    inner join users on part_pairs.user_id = users.user_id and users.fold = 'test'
    inner join items on part_pairs.item_id = items.item_id and items.fold = 'test'
    left join repeats
        on
            part_pairs.user_id = repeats.user_id
            and part_pairs.item_id = repeats.item_id
            and repeats.part = 'test'
    where part_pairs.part = 'test'
)

select * from validation
union all
select * from test
