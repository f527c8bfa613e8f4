-- Grain: one row per user among the events that fold test fits on; all of them, without a k-core.
select
    user_id,
    train_items > 0 as in_validation
from profile_users
where train_items + validation_items > 0
