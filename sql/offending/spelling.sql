-- Grain: one row per set of ids that differ only in case and blanks; each is read as an id of its own.
with

users as (
    select
        lower(trim(cast(user_id as varchar))) as spelling,
        count(*) as ids,
        list(cast(user_id as varchar) order by user_id) as spelled
    from profile_users
    where typeof(user_id) = 'VARCHAR'
    group by spelling
    having count(*) > 1
),

items as (
    select
        lower(trim(cast(item_id as varchar))) as spelling,
        count(*) as ids,
        list(cast(item_id as varchar) order by item_id) as spelled
    from profile_items
    where typeof(item_id) = 'VARCHAR'
    group by spelling
    having count(*) > 1
)

select
    'alike_users' as measure,
    spelled[:5] as spelled,
    ids
from users
union all
select
    'alike_items' as measure,
    spelled[:5] as spelled,
    ids
from items
