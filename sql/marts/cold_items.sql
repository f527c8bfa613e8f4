-- Grain: one row per described item that is held out with all of its events, and the part it is held out for:
-- a share split.cold_items of them for test, the same share of the others for validation.
with

draws as (
    select
        item_id,
        hash(getvariable('seed'), 'cold', item_id) % 1000000 / 1000000 as draw
    from stg_content
    where getvariable('cold_items') > 0
)

select
    item_id,
    if(draw < getvariable('cold_items'), cast('test' as part), cast('validation' as part)) as part
from draws
where draw < getvariable('cold_items') * (2 - getvariable('cold_items'))
