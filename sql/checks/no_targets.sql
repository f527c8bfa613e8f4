-- Grain: one row per fold with nothing to score.
-- Allowed: in each fold's window at least one pair whose user and item are both known from what is fitted.
select folds.fold
from (values ('validation'), ('test')) as folds (fold)
anti join targets on folds.fold = targets.fold
order by folds.fold desc
