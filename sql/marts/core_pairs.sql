-- Grain: one row per fold, user_id and item_id whose item and user the last round of the k-core left.
select fitted_pairs.*
from fitted_pairs
semi join core_items on fitted_pairs.fold = core_items.fold and fitted_pairs.item_id = core_items.item_id
semi join core_users on fitted_pairs.fold = core_users.fold and fitted_pairs.user_id = core_users.user_id
