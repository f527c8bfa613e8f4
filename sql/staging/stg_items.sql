-- Grain: one row per item of the metadata, as read; blank titles become NULL.
select
    source_items.* exclude (title),
    rowid + 1 as source_row,
    nullif(trim(title), '') as title
from source_items
