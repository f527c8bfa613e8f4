-- Grain: one row per column that the last run read as another type.
select
    'changed_columns' as measure,
    now.column_name,
    now.read_as as data_type,
    last_columns.read_as as last_data_type
from profile_columns as now
inner join last_columns on now.column_name = last_columns.column_name
where now.read_as <> last_columns.read_as
