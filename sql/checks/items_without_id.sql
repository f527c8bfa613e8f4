-- Grain: one row of the item metadata without an id.
-- Allowed: items.item is not NULL, and whole numbers fit into 64 bits.
select
    source_row,
    item_id,
    title
from stg_items
where item_id is null
order by source_row
