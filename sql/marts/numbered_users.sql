-- Grain: one row per user of fold test; numbers are dense and ascend with user_id (strings by UTF-8 bytes).
-- Users of fold validation are a subset, and have a number of that fold too.
select
    user_id,
    -- the same as count(*) filter (where in_validation), which takes minutes
    cast(if(in_validation, count(nullif(in_validation, false)) over by_id - 1, null) as integer)
        as validation_user,
    cast(row_number() over by_id - 1 as integer) as test_user
from core_users
window by_id as (order by user_id rows between unbounded preceding and current row)
