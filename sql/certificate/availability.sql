-- Grain: one row per fold and item whose time on sale differs from its fitted events, or is exceeded.
-- Holds: An item is on sale from its first to its last fitted event; its triples are within that time.
with

fitted_spans as (
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

triple_spans as (
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
    fitted_spans.first_at as first_fitted_at,
    fitted_spans.last_at as last_fitted_at,
    triple_spans.earliest_at,
    triple_spans.latest_at
from items
left join fitted_spans on items.fold = fitted_spans.fold and items.item_id = fitted_spans.item_id
left join triple_spans on items.fold = triple_spans.fold and items.item = triple_spans.item
where
    items.first_at is distinct from fitted_spans.first_at
    or items.last_at is distinct from fitted_spans.last_at
    or triple_spans.earliest_at < items.first_at
    or triple_spans.latest_at > items.last_at
