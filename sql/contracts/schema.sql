-- Grain: one row: the number of columns whose type is not that of the last run.
with

sizes as (
    select
        (select count(*) from offending_schema) as changed,
        (select count(*) from last_columns) as last_columns
)

select
    'changed_columns' as measure,
    if(last_columns > 0, changed, null) as value,
    null as least,
    getvariable('max_changed_columns') as most
from sizes
