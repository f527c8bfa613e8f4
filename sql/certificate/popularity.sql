-- Grain: one row per fold and item whose number of users is not its number of triples.
-- Holds: An item's number of users is its number of triples.
with

triple_counts as (
    select
        fold,
        item,
        count(*) as pairs
    from triples
    group by fold, item
)

select
    items.fold,
    items.item_id,
    items.user_count,
    coalesce(triple_counts.pairs, 0) as pairs
from items
left join triple_counts on items.fold = triple_counts.fold and items.item = triple_counts.item
where items.user_count is distinct from coalesce(triple_counts.pairs, 0)
