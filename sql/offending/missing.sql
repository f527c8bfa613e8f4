-- Grain: one row per event without a user or an item, if source.missing_ids leaves those out, and one per id
-- that is a word for a missing value, as programs write it when they convert missing values to text.
with

words as (
    select
        'user' as kind,
        cast(user_id as varchar) as id,
        events
    from profile_users
    where typeof(user_id) = 'VARCHAR'
    union all
    select
        'item' as kind,
        cast(item_id as varchar) as id,
        events
    from profile_items
    where typeof(item_id) = 'VARCHAR'
),

missing as (
    select
        'missing_ids' as measure,
        if(user_id is null, 'user', 'item') as kind,
        cast(null as varchar) as id,
        1 as events,
        source_row
    from source_log
    where getvariable('drop_missing_ids') and (user_id is null or item_id is null)
    union all
    select
        'missing_words' as measure,
        kind,
        id,
        events,
        null as source_row
    from words
    where
        lower(id) in (
            'nan', 'null', 'none', 'na', 'n/a', '#n/a', '<na>', 'nat', 'nil', '\n', '(null)', 'undefined'
        )
)

select
    measure,
    kind,
    id,
    source_row,
    events
from missing
