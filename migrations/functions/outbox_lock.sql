-- The number of the event log's advisory lock: one transaction at a time gives positions to events or deletes old ones. It is the only
-- lock that such a transaction waits for.
create or replace function outbox_lock() returns bigint
language sql immutable
return 7246002;
