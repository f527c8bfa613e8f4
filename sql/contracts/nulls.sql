-- Grain: one row per column read: the share of its rows that are NULL.
select
    measure,
    nulls / nullif(row_count, 0) as value,
    null as least,
    getvariable('max_null_share') as most
from offending_nulls
