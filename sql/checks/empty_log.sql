-- Grain: one row, if the log has no rows.
-- Allowed: a log of at least one row.
select count(*) as log_rows
from stg_interactions
having count(*) = 0
