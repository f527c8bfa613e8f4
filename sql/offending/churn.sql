-- Grain: one row per user or item that occurs only in the last run's log (gone) or only in this one (new).
select
    'gone_users' as measure,
    cast(last_users.user_id as varchar) as id,
    last_users.events
from last_users
anti join profile_users on last_users.user_id = profile_users.user_id
union all
select
    'new_users' as measure,
    cast(profile_users.user_id as varchar) as id,
    profile_users.events
from profile_users
anti join last_users on profile_users.user_id = last_users.user_id
union all
select
    'gone_items' as measure,
    cast(last_items.item_id as varchar) as id,
    last_items.events
from last_items
anti join profile_items on last_items.item_id = profile_items.item_id
union all
select
    'new_items' as measure,
    cast(profile_items.item_id as varchar) as id,
    profile_items.events
from profile_items
anti join last_items on profile_items.item_id = last_items.item_id
