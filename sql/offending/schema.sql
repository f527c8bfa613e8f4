-- Grain: one row per column that was read before too, as another type.
select
    'changed_columns' as measure,
    now.column_name,
    now.data_type,
    last_columns.data_type as last_data_type
from profile_columns as now
inner join last_columns on now.column_name = last_columns.column_name
where now.data_type <> last_columns.data_type
