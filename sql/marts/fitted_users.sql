-- Grain: one row per fold and user among the events the fold may fit on.
select
    'validation' as fold,
    user_id
from user_parts
where train_items > 0
union all
select
    'test' as fold,
    user_id
from user_parts
where train_items + validation_items > 0
