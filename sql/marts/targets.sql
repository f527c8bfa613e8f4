-- Grain: one row per fold, user and item held out, both known to the fold; is_new: not among its triples.
with

known as (
    select
        held_out.fold,
        held_out."user",
        held_out.item,
        triples.item is null as is_new
    from held_out
    left join triples
        on
            held_out.fold = triples.fold
            and held_out."user" = triples."user"
            and held_out.item = triples.item
    where held_out."user" is not null and held_out.item is not null
)

select * from known
order by fold, "user", item
