-- Grain: one row per user_id: how many events, what the next run's contracts compare with, and how many items
-- in each part of the split: who is new, which a pair's time, that of its last event, cannot tell.
select
    user_id,
    cast(sum(events) as bigint) as events,
    count(*) filter (where part = 'train') as train_items,
    count(*) filter (where part = 'validation') as validation_items,
    count(*) filter (where part = 'test') as test_items
from part_pairs
group by user_id
