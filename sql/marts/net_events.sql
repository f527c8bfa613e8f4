-- Grain: one row per kept event that is no return, of a pair that the returns in its part of the split leave
-- anything of; weights are what is left. Run where source.returns = 'net' alone: see prepare.py.
-- Part by part, as a fold must not know what comes back later.
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
    having sum(weight) > 1e-9 * sum(abs(weight)) -- what rounding leaves of 0.1 + 0.2 - 0.3 is nothing
)

select split_events.* replace (split_events.weight * sums.net_weight / sums.gross_weight as weight)
from split_events
inner join sums
    on
        split_events.user_id = sums.user_id
        and split_events.item_id = sums.item_id
        and split_events.part = sums.part
where split_events.weight > 0
