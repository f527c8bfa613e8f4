-- Grain: one row per event at the log's latest time.
with

extent as (
    select max(last_at) as last_at
    from profile_items
)

select
    'age_hours' as measure,
    stg_interactions.user_id,
    stg_interactions.item_id,
    stg_interactions.event_at,
    stg_interactions.source_row
from stg_interactions
semi join extent on stg_interactions.event_at = extent.last_at
where stg_interactions.weight > 0
