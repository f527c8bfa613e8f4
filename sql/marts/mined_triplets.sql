-- Grain: one row per fold, user, positive and draw whose hashed attempts met a valid negative:
-- on sale at the positive's time, never bought by the user. The first valid attempt is kept.
with

fold_sizes as (
    select
        fold,
        cast(count(*) as ubigint) as item_count -- as hash() is, so that % stays within 64 bits
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
    where getvariable('mined_negatives') > 0 -- a constant: without draws no triple is looked at
),

available as (
    select attempts.*
    from attempts
    inner join items on attempts.fold = items.fold and attempts.negative = items.item
    where attempts.event_at is null or attempts.event_at between items.first_at and items.last_at
),

unbought as (
    select available.*
    from available
    anti join triples
        on
            available.fold = triples.fold
            and available."user" = triples."user"
            and available.negative = triples.item
),

first_valid as (
    select
        fold,
        "user",
        positive,
        draw,
        arg_min(negative, attempt) as negative
    from unbought
    group by fold, "user", positive, draw
)

select * from first_valid
