-- Grain: one row per share: of rows without a user or an item, if they are left out; of events whose user or
-- item id is a word for a missing value.
with

counts as (
    select
        count(*) filter (where measure = 'missing_ids') as missing_rows,
        sum(events) filter (where measure = 'missing_words') as word_events
    from offending_missing
),

sizes as (
    select sum(events) as events
    from profile_items
)

select
    'missing_ids' as measure,
    counts.missing_rows / nullif(getvariable('log_rows'), 0) as value,
    null as least,
    getvariable('max_missing_ids') as most
from counts
union all
select
    'missing_words' as measure,
    coalesce(counts.word_events, 0) / nullif(sizes.events, 0) as value,
    null as least,
    getvariable('max_missing_words') as most
from counts
cross join sizes
