-- Deletes events that got their position longer than `kept` ago, at most `most` at once, and remembers how far. Returns how many.
--
-- Locks the event log (`outbox_lock`), then deletes the oldest rows: `last_deleted` never passes a row that is still there.
create or replace function outbox_forget(kept interval, most int) returns int
language plpgsql as $$
declare
    forgotten int;
    last bigint;
begin
    perform pg_advisory_xact_lock(outbox_lock());
    with oldest as (
        select key, sequenced_at from outbox where position is not null order by position limit most
    ), deleted as (
        delete from outbox o using oldest d where o.key = d.key and d.sequenced_at < now() - kept returning o.position
    )
    select count(*), max(position) into forgotten, last from deleted;
    update event_log set last_deleted = last where last is not null;
    return forgotten;
end
$$;
