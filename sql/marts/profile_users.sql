-- Grain: one row per user_id: its number of events, for the contracts of the next run too, and its number of
-- items in each part of the split, which tells who is new (a pair's time is only that of its last event).
select
    user_id,
    cast(sum(events) as bigint) as events,
    count(*) filter (where part = 'train') as train_items,
    count(*) filter (where part = 'validation') as validation_items,
    count(*) filter (where part = 'test') as test_items
from part_pairs
group by user_id
