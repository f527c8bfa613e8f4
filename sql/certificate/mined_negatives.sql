-- Grain: one row per mined triplet of no fitted pair, or whose negative is owned or was not on sale.
-- Holds: A mined negative is not a fitted item of the user, and was on sale at the positive's time.
select
    mined_triplets.fold,
    mined_triplets."user",
    mined_triplets.positive,
    mined_triplets.negative,
    positives.event_at,
    items.first_at,
    items.last_at,
    negatives."user" is not null as is_owned
from mined_triplets
left join triples as positives
    on
        mined_triplets.fold = positives.fold
        and mined_triplets."user" = positives."user"
        and mined_triplets.positive = positives.item
left join triples as negatives
    on
        mined_triplets.fold = negatives.fold
        and mined_triplets."user" = negatives."user"
        and mined_triplets.negative = negatives.item
left join items on mined_triplets.fold = items.fold and mined_triplets.negative = items.item
where
    positives."user" is null
    or negatives."user" is not null
    or items.item is null
    or positives.event_at not between items.first_at and items.last_at
