-- Grain: one row per mined triplet whose negative the user has, or was not on sale, or of no fitted pair.
-- Holds: A mined negative is none of the user's fitted items, and was on sale when the positive was taken.
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
