-- Grain: one row per event whose time is missing or cannot be read.
-- Allowed: finite times, dates or ISO 8601 text (2024-05-31T18:00:00Z); others with source.time_format.
select
    stg_interactions.source_row,
    stg_interactions.user_id,
    stg_interactions.item_id,
    coalesce(source_unread.time, cast(stg_interactions.event_at as varchar)) as event_at,
    coalesce(source_unread.time_formats, 'no known one') as time_format_that_reads_all
from stg_interactions
left join source_unread on stg_interactions.source_row = source_unread.source_row
where
    getvariable('has_time')
    and (stg_interactions.event_at is null or not isfinite(stg_interactions.event_at))
order by stg_interactions.source_row
