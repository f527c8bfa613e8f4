-- Grain: one row per fold, user, positive and draw with a valid negative among its hashed attempts:
-- on sale at the positive's time, no fitted item of the user. The first valid attempt is kept.
with

fold_sizes as (
    select
        fold,
        cast(count(*) as ubigint) as item_count -- the type of hash(), so that % stays within 64 bits
    from items
    group by fold
),

attempts as (
    select
        triples.fold,
        triples."user",
        triples.item as positive,
        triples.event_at,
        draws.draw,
        tries.attempt,
        cast(
            hash(getvariable('seed'), triples."user", triples.item, draws.draw, tries.attempt)
            % fold_sizes.item_count as integer
        ) as negative
    from triples
    inner join fold_sizes on triples.fold = fold_sizes.fold
    cross join range(getvariable('mined_negatives')) as draws (draw)
    cross join range(8) as tries (attempt)
    where getvariable('mined_negatives') > 0 -- a constant: without draws no triple is read
),

available_attempts as (
    select attempts.*
    from attempts
    inner join items on attempts.fold = items.fold and attempts.negative = items.item
    where attempts.event_at is null or attempts.event_at between items.first_at and items.last_at
),

new_attempts as (
    select available_attempts.*
    from available_attempts
    anti join triples
        on
            available_attempts.fold = triples.fold
            and available_attempts."user" = triples."user"
            and available_attempts.negative = triples.item
)

select
    fold,
    "user",
    positive,
    draw,
    arg_min(negative, attempt) as negative
from new_attempts
group by fold, "user", positive, draw
