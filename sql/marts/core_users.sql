-- Grain: one row per user left by a round of the k-core; rounds repeat until none removes any in either fold.
select
    user_id,
    count(*) filter (where in_validation) >= getvariable('min_items_per_user') as in_validation
from core_pairs
group by user_id
having count(*) >= getvariable('min_items_per_user')
