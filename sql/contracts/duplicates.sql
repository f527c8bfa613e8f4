-- Grain: one row: the share of rows that repeat another in every column read.
select
    'duplicate_share' as measure,
    value,
    null as least,
    getvariable('max_duplicate_share') as most
from duplicate_share
