-- Grain: one row per fold and item: on sale from the first to the last fitted event, of any user.
with

fitted as (
    select
        'validation' as fold,
        *
    from item_parts
    where part = 'train'
    union all
    select
        'test' as fold,
        *
    from item_parts
    where part <> 'test'
)

select
    fold,
    item_id,
    cast(sum(pairs - pairs_again) as bigint) as user_count,
    min(first_at) as first_at,
    max(last_at) as last_at
from fitted
group by fold, item_id
