-- Grain: one row per fold and item on sale by other events than its fitted ones, or taken when it was not.
-- Holds: An item is on sale from its first to its last fitted event, and each triple is of that time.
with

fitted as (
    select
        'validation' as fold,
        item_id,
        first_at,
        last_at
    from item_parts
    where part = 'train'
    union all
    select
        'test' as fold,
        item_id,
        min(first_at) as first_at,
        max(last_at) as last_at
    from item_parts
    where part <> 'test'
    group by item_id
),

learnt as (
    select
        fold,
        item,
        min(event_at) as earliest_at,
        max(event_at) as latest_at
    from triples
    group by fold, item
)

select
    items.fold,
    items.item_id,
    items.first_at,
    items.last_at,
    fitted.first_at as first_fitted_at,
    fitted.last_at as last_fitted_at,
    learnt.earliest_at,
    learnt.latest_at
from items
left join fitted on items.fold = fitted.fold and items.item_id = fitted.item_id
left join learnt on items.fold = learnt.fold and items.item = learnt.item
where
    items.first_at is distinct from fitted.first_at
    or items.last_at is distinct from fitted.last_at
    or learnt.earliest_at < items.first_at
    or learnt.latest_at > items.last_at
