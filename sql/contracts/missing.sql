-- Grain: one row: the share of rows without a user or an item, where those are left out.
select
    'missing_ids' as measure,
    count(*) / nullif(getvariable('log_rows'), 0) as value,
    null as least,
    getvariable('max_missing_ids') as most
from offending_missing
