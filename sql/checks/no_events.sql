-- Grain: one row, if no event of the log is kept.
-- Allowed: at least one event with a weight above 0.
select count(*) as kept_events
from item_events
having count(*) = 0
