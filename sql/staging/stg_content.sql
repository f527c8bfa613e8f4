-- Grain: one row per item of the metadata, if new items are placed: its words, its vector, since when it is
-- listed.
select
    item_id,
    nullif(trim(words), '') as words,
    vector,
    listed_at
from source_content
where getvariable('place_new')
