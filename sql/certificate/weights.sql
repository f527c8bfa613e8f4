-- Grain: one row per fold and item whose triples weigh something else than its fitted events do.
-- Holds: An item's triples weigh what its fitted events weigh; less only where a k-core leaves pairs out.
with

fitted as (
    select
        'validation' as fold,
        item_id,
        weight
    from item_parts
    where part = 'train'
    union all
    select
        'test' as fold,
        item_id,
        sum(weight) as weight
    from item_parts
    where part <> 'test'
    group by item_id
),

learnt as (
    select
        fold,
        item,
        sum(weight) as weight
    from triples
    group by fold, item
),

compared as (
    select
        items.fold,
        items.item_id,
        learnt.weight,
        coalesce(fitted.weight, 0) as fitted_weight,
        1e-9 * learnt.weight as rounding -- the order of a sum is DuckDB's own
    from learnt
    inner join items on learnt.fold = items.fold and learnt.item = items.item
    left join fitted on items.fold = fitted.fold and items.item_id = fitted.item_id
)

select * exclude (rounding)
from compared
where
    weight > fitted_weight + rounding
    or (not getvariable('has_core') and weight < fitted_weight - rounding)
