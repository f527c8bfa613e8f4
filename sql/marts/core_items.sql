-- Grain: one row per fold and item left by one more round of the k-core; run until no round takes any.
select
    fold,
    item_id,
    count(*) as user_count
from core_pairs
group by fold, item_id
having count(*) >= getvariable('min_users_per_item')
