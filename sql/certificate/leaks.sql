-- Grain: one row per fold: fitted pairs since its first held-out event, and targets that repeat fitted pairs.
with

held_out as (
    select
        cast(part as varchar) as fold,
        min(first_at) as held_out_from
    from item_parts
    where part <> 'train'
    group by part
),

fitted_counts as (
    select
        held_out.fold,
        held_out.held_out_from,
        count(*) as pairs,
        count(*) filter (where triples.event_at >= held_out.held_out_from) as late_pairs,
        count(distinct triples."user") as known_users,
        count(distinct triples."user") filter (where triples.event_at >= held_out.held_out_from) as late_users
    from triples
    inner join held_out on triples.fold = held_out.fold
    group by held_out.fold, held_out.held_out_from
),

target_counts as (
    select
        fold,
        count(*) as targets,
        count(*) filter (where not is_new) as repeats
    from targets
    group by fold
)

select
    fitted_counts.*,
    coalesce(target_counts.targets, 0) as targets,
    coalesce(target_counts.repeats, 0) as repeats
from fitted_counts
left join target_counts on fitted_counts.fold = target_counts.fold
order by fitted_counts.fold desc
