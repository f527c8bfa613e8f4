-- Grain: one row per fold, user_id and item_id fitted: the triples with the log's ids, for people to read.
select
    triples.fold,
    users.user_id,
    items.item_id,
    triples.weight,
    triples.event_at as last_at
from triples
inner join users on triples.fold = users.fold and triples."user" = users."user"
inner join items on triples.fold = items.fold and triples.item = items.item
