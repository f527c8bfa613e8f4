-- Grain: one row per fold and user; numbers are dense and ascend with user_id (strings by UTF-8 bytes).
select
    fold,
    user_id,
    cast(row_number() over (partition by fold order by user_id) - 1 as integer) as "user"
from core_users
