-- Grain: one row per event whose label of a predefined split is unknown.
-- Allowed: source.split holds 'train', 'validation' or 'test'.
select
    source_row,
    user_id,
    item_id,
    part
from stg_interactions
where getvariable('split_kind') = 'predefined' and coalesce(part, '') not in ('train', 'validation', 'test')
order by source_row
