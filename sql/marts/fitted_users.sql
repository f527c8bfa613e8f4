-- Grain: one row per user among the events that fold test may fit on: the k-core's, if it leaves nobody out.
select
    user_id,
    train_items > 0 as in_validation
from profile_users
where train_items + validation_items > 0
