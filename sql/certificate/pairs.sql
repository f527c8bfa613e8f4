-- Grain: one row per fold, user and item that is both fitted and held out as new to the user.
-- Holds: No user-item pair that a fold holds out as new is among its triples.
select
    targets.fold,
    targets."user",
    targets.item
from targets
inner join triples
    on targets.fold = triples.fold and targets."user" = triples."user" and targets.item = triples.item
where targets.is_new
