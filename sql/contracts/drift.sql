-- Grain: one row per population: its stability index against the last run; see offending/drift.
select
    measure,
    sum(psi) as value,
    null as least,
    if(measure = 'user_psi', getvariable('max_user_psi'), getvariable('max_item_psi')) as most
from offending_drift
group by measure
