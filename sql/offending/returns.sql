-- Grain: one row per item with returns (rows of negative weight).
select
    'returns' as measure,
    item_id,
    sum(weight) as weight,
    count(*) as returned_rows
from stg_interactions
where weight < 0
group by item_id
