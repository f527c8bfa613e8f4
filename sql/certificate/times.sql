-- Grain: one row per fold and row of a table on the wrong side of the start of the fold's window.
-- Holds: A fold's fitted events are before its window, its held-out ones within: train < validation < test.
with

folds as (
    select
        'validation' as fold,
        validation_start as start_at
    from windows
    union all
    select
        'test' as fold,
        test_start as start_at
    from windows
),

late_parts as (
    select
        folds.fold,
        'events of ' || item_parts.part as found_in,
        'item ' || item_parts.item_id as what,
        item_parts.last_at as event_at,
        folds.start_at
    from item_parts
    inner join folds on item_parts.part = 'train' or (item_parts.part = 'validation' and folds.fold = 'test')
    where coalesce(item_parts.last_at >= folds.start_at, true)
),

early_parts as (
    select
        folds.fold,
        'events of ' || item_parts.part as found_in,
        'item ' || item_parts.item_id as what,
        item_parts.first_at as event_at,
        folds.start_at
    from item_parts
    inner join folds on item_parts.part = folds.fold
    where coalesce(item_parts.first_at < folds.start_at, true)
),

late_triples as (
    select
        folds.fold,
        'triples' as found_in,
        format('user number {}, item number {}', triples."user", triples.item) as what,
        triples.event_at,
        folds.start_at
    from triples
    inner join folds on triples.fold = folds.fold
    where coalesce(triples.event_at >= folds.start_at, true)
),

late_items as (
    select
        folds.fold,
        'items' as found_in,
        'item ' || items.item_id as what,
        items.last_at as event_at,
        folds.start_at
    from items
    inner join folds on items.fold = folds.fold
    where coalesce(items.last_at >= folds.start_at, true)
),

early_targets as (
    select
        folds.fold,
        'targets' as found_in,
        format('user number {}, item number {}', targets."user", targets.item) as what,
        targets.event_at,
        folds.start_at
    from targets
    inner join folds on targets.fold = folds.fold
    where coalesce(targets.event_at < folds.start_at, true)
)

select * from late_parts
union all
select * from early_parts
union all
select * from late_triples
union all
select * from late_items
union all
select * from early_targets
