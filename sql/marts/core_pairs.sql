-- Grain: one row per fold, user_id and item_id whose item and user the last round of the k-core left.
select pairs.*
from pairs
semi join core_items on pairs.fold = core_items.fold and pairs.item_id = core_items.item_id
semi join core_users on pairs.fold = core_users.fold and pairs.user_id = core_users.user_id
