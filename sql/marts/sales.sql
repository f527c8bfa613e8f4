-- Grain: one row per item among the events that fold test fits on: for each fold its number of users and its
-- time on sale, from its first to its last fitted event of any user.
select
    item_id,
    count(*) filter (where part = 'train') > 0 as in_validation,
    cast(sum(pairs - repeated_pairs) filter (where part = 'train') as bigint) as validation_users,
    cast(sum(pairs - repeated_pairs) as bigint) as test_users,
    min(first_at) filter (where part = 'train') as validation_first_at,
    max(last_at) filter (where part = 'train') as validation_last_at,
    min(first_at) as test_first_at,
    max(last_at) as test_last_at
from item_parts
where part <> 'test'
group by item_id
