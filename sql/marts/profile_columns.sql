-- Grain: one row per column read of the log and of the items' metadata; compared with by the next run.
-- Ids are the only whole numbers of source_rows, BIGINT even where it holds them in fewer bytes.
select
    if(table_name = 'source_rows', 'log.', 'items.') || column_name as column_name,
    if(table_name = 'source_rows' and data_type = 'INTEGER', 'BIGINT', data_type) as data_type
from duckdb_columns()
where
    database_name = 'temp'
    and (
        table_name = 'source_rows'
        or (
            table_name = 'source_items'
            and getvariable('has_items')
            and (column_name <> 'title' or getvariable('has_title'))
        )
    )
