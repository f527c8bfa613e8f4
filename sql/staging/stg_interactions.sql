-- Grain: one row per event of the log; names and types are settled, nothing is dropped yet.
with

source as (
    select
        source_row,
        user_id,
        item_id,
        event,
        weight,
        part,
        event_at as time_as_read,
        case -- UTC: the session's time zone; only text needs the detour, and it is slow
            when typeof(event_at) = 'VARCHAR' then cast(try_cast(event_at as timestamptz) as timestamp)
            else try_cast(event_at as timestamp)
        end as event_at
    from source_log
),

weighed as (
    select
        source.source_row,
        source.user_id,
        source.item_id,
        source.event_at,
        source.event,
        source.part,
        coalesce(source_event_weights.weight, source.weight) as weight,
        case when source.event_at is null then cast(source.time_as_read as varchar) end as unread_time
    from source
    left join source_event_weights on source.event = source_event_weights.event
)

select * from weighed
