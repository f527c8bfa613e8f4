-- Grain: one row: the share of rows that repeat another in every column read; rows are told apart by 64 bits.
-- Of a log of more than ten million rows it is told by those of one hash in so many: equal rows go together.
-- Asked early, while the log still lies in memory.
with

row_hashes as (
    select hash(source_rows) as row_hash
    from source_rows
),

told as (
    select row_hash
    from row_hashes
    where row_hash % cast(greatest(floor(getvariable('log_rows') / 5e6), 1) as ubigint) = 0
)

select 1 - count(distinct row_hash) / nullif(count(*), 0) as value
from told
