-- Grain: one row per user_id and item_id whose item and user are left by the last round of the k-core.
select
    fitted_pairs.user_id,
    fitted_pairs.item_id,
    fitted_pairs.in_validation and core_items.in_validation and core_users.in_validation as in_validation
from fitted_pairs
inner join core_items on fitted_pairs.item_id = core_items.item_id
inner join core_users on fitted_pairs.user_id = core_users.user_id
