-- Grain: one row per part of the split without events.
-- Allowed: events in each of train, validation and test (see split.* in the config).
select
    parts.part,
    windows.validation_start,
    windows.test_start
from (values ('train'), ('validation'), ('test')) as parts (part)
cross join windows
anti join item_events on parts.part = item_events.part
order by parts.part desc
