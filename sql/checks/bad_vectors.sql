-- Grain: one row per described item whose vector cannot be used.
-- Allowed: vectors of the same length for all items, of finite numbers; NULL where an item has none.
with

lengths as (
    select mode(len(vector)) as usual_length
    from stg_content
)

select
    stg_content.item_id,
    len(stg_content.vector) as length,
    lengths.usual_length,
    list_filter(stg_content.vector, lambda number : number is null or not isfinite(number)) as not_finite
from stg_content
cross join lengths
where
    stg_content.vector is not null
    and (
        len(stg_content.vector) <> lengths.usual_length
        or len(list_filter(stg_content.vector, lambda number : number is null or not isfinite(number))) > 0
    )
order by stg_content.item_id
