-- Grain: one row per fold, user and new item, if the user had it before the fold's window: too few users did
-- for it to be fitted, but it is nothing new to them.
select distinct
    new_items.fold,
    users."user",
    new_items.item
from part_pairs
inner join new_items
    on
        part_pairs.item_id = new_items.item_id
        and (part_pairs.part = 'train' or (part_pairs.part = 'validation' and new_items.fold = 'test'))
inner join users on new_items.fold = users.fold and part_pairs.user_id = users.user_id
