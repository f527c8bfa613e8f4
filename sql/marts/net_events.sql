-- Grain: one row per kept event that is no return, if its pair's sum of weights in its part of the split is
-- above 0; returns reduce the weights. Run for source.returns = 'net' only: see steps.py.
-- Each part on its own, as a fold must not know about later returns.
with

sums as (
    select
        user_id,
        item_id,
        part,
        sum(weight) as net_weight,
        sum(weight) filter (where weight > 0) as gross_weight
    from split_events
    group by user_id, item_id, part
    having sum(weight) > 1e-9 * sum(abs(weight)) -- 0.1 + 0.2 - 0.3 counts as 0 in spite of rounding
)

select split_events.* replace (split_events.weight * sums.net_weight / sums.gross_weight as weight)
from split_events
inner join sums
    on
        split_events.user_id = sums.user_id
        and split_events.item_id = sums.item_id
        and split_events.part = sums.part
where split_events.weight > 0
