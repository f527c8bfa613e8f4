-- Grain: one row per fold: how much it fits from the first event on that it holds out, or holds out too.
with

held_out as (
    select
        cast(part as varchar) as fold,
        min(first_at) as held_out_from
    from item_parts
    where part <> 'train'
    group by part
),

learnt as (
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

asked as (
    select
        fold,
        count(*) as targets,
        count(*) filter (where not is_new) as repeats
    from targets
    group by fold
)

select
    learnt.*,
    coalesce(asked.targets, 0) as targets,
    coalesce(asked.repeats, 0) as repeats
from learnt
left join asked on learnt.fold = asked.fold
order by learnt.fold desc
