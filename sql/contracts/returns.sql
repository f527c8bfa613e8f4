-- Grain: one row: the share of rows that are returns, if source.returns allows them.
with

counts as (
    select coalesce(sum(returned_rows), 0) as returned_rows
    from offending_returns
)

select
    'returns' as measure,
    returned_rows / nullif(getvariable('log_rows'), 0) as value,
    null as least,
    getvariable('max_returns') as most
from counts
