-- Grain: one row: what these tables were made from; equal keys mean equal tables.
select
    getvariable('key') as key,
    getvariable('source_query') as source_query,
    getvariable('fingerprint') as fingerprint,
    getvariable('settings') as settings
