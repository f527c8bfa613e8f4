-- Grain: one row per fold and item whose triples and fitted events differ in total weight.
-- Holds: An item's triples have the total weight of its fitted events; less only if a k-core drops pairs.
with

fitted_weights as (
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

triple_weights as (
    select
        fold,
        item,
        sum(weight) as weight
    from triples
    group by fold, item
),

item_weights as (
    select
        items.fold,
        items.item_id,
        triple_weights.weight,
        coalesce(fitted_weights.weight, 0) as fitted_weight,
        1e-9 * triple_weights.weight as rounding -- DuckDB sums in any order
    from triple_weights
    inner join items on triple_weights.fold = items.fold and triple_weights.item = items.item
    left join fitted_weights on items.fold = fitted_weights.fold and items.item_id = fitted_weights.item_id
)

select * exclude (rounding)
from item_weights
where
    weight > fitted_weight + rounding
    or (not getvariable('has_core') and weight < fitted_weight - rounding)
