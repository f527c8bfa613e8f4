-- Grain: one row per item_id and part of the split; repeated_pairs: pairs that an earlier part has too.
-- The certificate (sql/certificate) compares the tables of the folds with it.
with

pair_counts as (
    select
        item_id,
        part,
        count(*) as pairs
    from part_pairs
    group by item_id, part
),

repeat_counts as (
    select
        item_id,
        part,
        count(*) as pairs
    from repeats
    group by item_id, part
)

select
    item_events.*,
    pair_counts.pairs,
    coalesce(repeat_counts.pairs, 0) as repeated_pairs
from item_events
inner join pair_counts on item_events.item_id = pair_counts.item_id and item_events.part = pair_counts.part
left join repeat_counts
    on item_events.item_id = repeat_counts.item_id and item_events.part = repeat_counts.part
