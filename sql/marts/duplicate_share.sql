-- Grain: one row: the share of rows that repeat another in every column read, compared by 64-bit hashes.
-- Of a log of more than ten million rows a sample of the hashes is used, so that equal rows stay together.
-- Runs early, while the log is still in memory.
with

row_hashes as (
    select hash(source_rows) as row_hash
    from source_rows
),

sampled_hashes as (
    select row_hash
    from row_hashes
    where row_hash % cast(greatest(floor(getvariable('log_rows') / 5e6), 1) as ubigint) = 0
)

select 1 - count(distinct row_hash) / nullif(count(*), 0) as value
from sampled_hashes
