-- Grain: one row per item id that occurs more than once in the metadata.
-- Allowed: one row of metadata per item.
select
    item_id,
    count(*) as metadata_rows,
    min(source_row) as first_source_row
from stg_items
group by item_id
having count(*) > 1
order by first_source_row
