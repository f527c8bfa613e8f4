-- Grain: one row per fold, user and item held out, if the fold fits on both; is_new: not among its triples.
select
    cast('validation' as enum('test', 'validation')) as fold,
    "user",
    item,
    event_at,
    not is_repeat as is_new
from validation_pairs
where part = 'validation'
union all
select
    cast('test' as enum('test', 'validation')) as fold,
    test_user as "user",
    test_item as item,
    event_at,
    not is_repeat as is_new
from numbered_pairs
where part = 'test'
