-- Grain: one row per described item whose vector cannot be used.
-- Allowed: vectors of the same length for all items, of finite numbers; NULL where an item has none.
with

lengths as (
    select mode(len(vector)) as usual_length
    from stg_content
),

numbers as (
    select
        item_id,
        unnest(vector) as number
    from stg_content
),

not_finite as (
    select
        item_id,
        count(*) as numbers
    from numbers
    where number is null or not isfinite(number)
    group by item_id
)

select
    stg_content.item_id,
    len(stg_content.vector) as length,
    lengths.usual_length,
    coalesce(not_finite.numbers, 0) as not_finite
from stg_content
cross join lengths
left join not_finite on stg_content.item_id = not_finite.item_id
where len(stg_content.vector) <> lengths.usual_length or not_finite.numbers > 0
order by stg_content.item_id
