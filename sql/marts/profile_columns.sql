-- Grain: one row per column read of the log and of the items' metadata; compared with by the next run.
-- Ids as they were read, all else as the source declares it; text and json are what csv and json hold.
select
    column_name,
    read_as
from source_columns
