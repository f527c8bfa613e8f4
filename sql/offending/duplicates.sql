-- Grain: one row per row of the log that occurs several times, equal in every column read.
select
    'duplicate_share' as measure,
    source_rows.*,
    count(*) as times
from source_rows
group by all
having count(*) > 1
