-- Grain: one row per event with an unknown part of a predefined split.
-- Allowed: source.split holds 'train', 'validation' or 'test'.
select
    source_row,
    user_id,
    item_id,
    part
from stg_interactions
where getvariable('split_kind') = 'predefined' and coalesce(part, '') not in ('train', 'validation', 'test')
order by source_row
