-- Grain: one row per fold and user left by one more round of the k-core; run until no round takes any.
select
    fold,
    user_id
from core_pairs
group by fold, user_id
having count(*) >= getvariable('min_items_per_user')
