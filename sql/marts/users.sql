-- Grain: one row per fold and user.
select
    'validation' as fold,
    user_id,
    validation_user as "user"
from numbered_users
where validation_user is not null
union all
select
    'test' as fold,
    user_id,
    test_user as "user"
from numbered_users
