-- Grain: one row per item left by a round of the k-core; rounds repeat until none removes any in either fold.
select
    item_id,
    count(*) filter (where in_validation) >= getvariable('min_users_per_item') as in_validation,
    count(*) filter (where in_validation) as validation_users,
    count(*) as test_users
from core_pairs
group by item_id
having count(*) >= getvariable('min_users_per_item')
