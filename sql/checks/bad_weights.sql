-- Grain: one row per event whose weight is missing or out of range.
-- Allowed: numbers from 0 to 1e30, no NULL, no NaN; below 0 only with source.returns = 'drop' or 'net'.
select
    stg_interactions.source_row,
    stg_interactions.user_id,
    stg_interactions.item_id,
    stg_interactions.weight,
    source_unread.weight as written
from stg_interactions
left join source_unread on stg_interactions.source_row = source_unread.source_row
where
    stg_interactions.weight is null
    -- NaN sorts above every number
    or not stg_interactions.weight between if(getvariable('returns') = 'refuse', 0, -1e30) and 1e30
order by stg_interactions.source_row
