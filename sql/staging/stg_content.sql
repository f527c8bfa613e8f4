-- Grain: one row per item of the metadata, if new items are placed: its words, its vector (of a column, or of
-- items.vectors_file), since when it is listed.
select
    source_content.item_id,
    nullif(trim(source_content.words), '') as words,
    coalesce(source_content.vector, source_vectors.vector) as vector,
    source_content.listed_at
from source_content
left join source_vectors on source_content.item_id = source_vectors.item_id
where getvariable('place_new')
