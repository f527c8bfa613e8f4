-- Grain: one row per user, item and part, if fold validation fits on both, in that fold's numbers.
with

numbered_items as (
    select
        test.item as test_item,
        validation.item as validation_item
    from items as test
    inner join items as validation on test.item_id = validation.item_id and validation.fold = 'validation'
    where test.fold = 'test'
)

select
    numbered_users.validation_user as "user",
    numbered_items.validation_item as item,
    numbered_pairs.part,
    numbered_pairs.is_repeat,
    numbered_pairs.weight,
    numbered_pairs.event_at
from numbered_pairs
inner join numbered_users on numbered_pairs.test_user = numbered_users.test_user
inner join numbered_items on numbered_pairs.test_item = numbered_items.test_item
where numbered_users.validation_user is not null
