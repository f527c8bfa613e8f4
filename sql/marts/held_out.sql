-- Grain: one row per fold, user_id and item_id of its window; a number is NULL where the fold has none.
with

windowed as (
    select distinct
        part as fold,
        user_id,
        item_id
    from events
    where part in ('validation', 'test')
),

numbered as (
    select
        windowed.fold,
        windowed.user_id,
        windowed.item_id,
        users."user",
        items.item
    from windowed
    left join users on windowed.fold = users.fold and windowed.user_id = users.user_id
    left join items on windowed.fold = items.fold and windowed.item_id = items.item_id
)

select * from numbered
