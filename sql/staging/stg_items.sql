-- Grain: one row per item of the metadata, as read; blank titles become NULL.
with

clean_items as (
    select
        source_items.* exclude (title),
        rowid + 1 as source_row,
        nullif(trim(title), '') as title
    from source_items
)

select * from clean_items
