-- Grain: one row per fold with nothing to score.
-- Allowed: in each fold's window at least one pair whose user and item are both known from what is fitted.
select folds.fold
from (values ('validation'), ('test')) as folds (fold)
anti join counts on folds.fold || '.targets' = counts.name and counts.value > 0
order by folds.fold desc
