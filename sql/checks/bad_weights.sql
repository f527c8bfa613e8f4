-- Grain: one row per event whose weight is unusable.
-- Allowed: weights are numbers from 0 to 1e30 (0 drops the event); no NULL, no NaN.
select
    source_row,
    user_id,
    item_id,
    weight
from stg_interactions
where weight is null or not weight between 0 and 1e30 -- NaN sorts above every number
order by source_row
