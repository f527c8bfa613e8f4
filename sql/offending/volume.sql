-- Grain: one row per accepted log of the last runs.
select
    'volume' as measure,
    events as events_of_past_run,
    number as run
from past_runs
