-- Grain: one row per user_id: how many events; what the next run's contracts compare with.
select
    user_id,
    count(*) as events
from stg_interactions
where weight > 0
group by user_id
