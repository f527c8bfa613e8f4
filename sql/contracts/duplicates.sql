-- Grain: one row: the share of rows that repeat another in every column read; rows are told apart by 64 bits.
select
    'duplicate_share' as measure,
    1 - count(distinct hash(source_rows)) / count(*) as value,
    null as least,
    getvariable('max_duplicate_share') as most
from source_rows
