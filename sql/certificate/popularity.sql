-- Grain: one row per fold and item whose number of users is another than that of its triples.
-- Holds: An item is as popular as its triples are many.
with

learnt as (
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
    coalesce(learnt.pairs, 0) as pairs
from items
left join learnt on items.fold = learnt.fold and items.item = learnt.item
where items.user_count is distinct from coalesce(learnt.pairs, 0)
