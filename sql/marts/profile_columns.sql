-- Grain: one row per column read of the log and of the item metadata; for the contracts of the next run.
-- Ids have the type they were read as, other columns the type in the source; of csv and json text or json.
select
    column_name,
    read_as
from source_columns
