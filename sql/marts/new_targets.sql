-- Grain: one row per fold, user and new item held out, if the fold fits on the user, who never had the item.
with

held_out as (
    select
        'validation' as fold,
        part_pairs.user_id,
        part_pairs.item_id,
        part_pairs.last_at,
        part_pairs.part
    from part_pairs
    where part_pairs.part = 'validation'
    union all
    select
        'test' as fold,
        part_pairs.user_id,
        part_pairs.item_id,
        part_pairs.last_at,
        part_pairs.part
    from part_pairs
    where part_pairs.part = 'test'
),

first_held_out as (
    select held_out.*
    from held_out
    anti join repeats
        on
            held_out.user_id = repeats.user_id
            and held_out.item_id = repeats.item_id
            and held_out.part = repeats.part
)

select
    first_held_out.fold,
    users."user",
    new_items.item,
    first_held_out.last_at as event_at
from first_held_out
inner join users on first_held_out.fold = users.fold and first_held_out.user_id = users.user_id
inner join new_items on first_held_out.fold = new_items.fold and first_held_out.item_id = new_items.item_id
