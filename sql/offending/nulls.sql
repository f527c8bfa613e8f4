-- Grain: one row per column read, of the log and of the items' metadata (a blank title is NULL).
with

log_columns as (
    select
        'null_share.log.' || column_name as measure,
        counted
    from (
        unpivot (
            select
                {
                    'first_source_rows': min(if(columns(*) is null, rowid + 1, null), 5),
                    'row_count': count(*),
                    'nulls': count(*) - count(columns(*))
                }
            from source_rows
        ) on columns(*) into name column_name value counted
    )
),

item_columns as (
    select
        'null_share.items.' || column_name as measure,
        counted
    from (
        unpivot (
            select
                {
                    'first_source_rows': min(
                        if(columns(* exclude (item_id, source_row)) is null, source_row, null), 5
                    ),
                    'row_count': count(*),
                    'nulls': count(*) - count(columns(* exclude (item_id, source_row)))
                }
            from stg_items
        ) on columns(*) into name column_name value counted
    )
    where getvariable('has_items') and (column_name <> 'title' or getvariable('has_title'))
),

read_columns as (
    select * from log_columns
    union all
    select * from item_columns
)

select
    measure,
    unnest(counted) -- noqa: AL03
from read_columns
