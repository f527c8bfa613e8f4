-- Grain: one row per item of the metadata, if new items are placed: its words, its vector, when it was listed.
select
    item_id,
    nullif(trim(text), '') as text,
    vector,
    listed_at
from source_content
where getvariable('place_new')
