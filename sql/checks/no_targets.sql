-- Grain: one row per fold without targets.
-- Allowed: in each fold's window at least one pair whose user and item both have fitted events.
select folds.fold
from (values ('validation'), ('test')) as folds (fold)
anti join counts on folds.fold || '.targets' = counts.name and counts.value > 0
order by folds.fold desc
