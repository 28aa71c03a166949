-- Gives positions to committed events that have none. Returns how many; 0 means that everything committed before the call has one.
--
-- Locks the event log (`outbox_lock`), then writes the rows: one transaction at a time, in the order of commits, so a reader that has seen
-- a position will never see a lower one appear.
create or replace function outbox_sequence(most int) returns int
language plpgsql as $$
declare
    sequenced int;
begin
    if not exists (select from outbox where position is null) then
        return 0;
    end if;
    perform pg_advisory_xact_lock(outbox_lock());
    update outbox o set position = e.head + d.place, sequenced_at = clock_timestamp()
    from event_log e, (
        select key, row_number() over (order by created_at, number) as place
        from (select key, created_at, number from outbox where position is null order by created_at, number limit most) waiting
    ) d
    where o.key = d.key;
    get diagnostics sequenced = row_count;
    update event_log set head = head + sequenced where sequenced > 0;
    return sequenced;
end
$$;
