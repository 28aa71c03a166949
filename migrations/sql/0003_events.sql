-- Where the log of events stands: the last position given, and the last one whose row is gone. `history` is its name elsewhere.
create table event_log (
    one boolean not null default true,
    head bigint not null default 0,
    gone bigint not null default 0,
    history uuid not null default gen_random_uuid(),
    constraint pk_event_log primary key (one),
    constraint ck_event_log_one check (one)
);
--
insert into event_log default values;
--
-- `payload` is the event of a topic that has no table of its own; `number` keeps the order within a transaction.
alter table outbox
    add column payload jsonb, add column placed_at timestamptz, add column number bigint not null generated always as identity;
--
create index ix_outbox_topic on outbox (topic, tenant, position);
--
-- Gives positions to events that are committed and have none, in one transaction at a time: a reader that has seen a position will never
-- see a lower one appear. Returns how many; 0 says that all that was committed before the call is placed.
create function outbox_place(most int) returns int
language plpgsql as $$
declare
    placed int;
begin
    if not exists (select from outbox where position is null) then
        return 0;
    end if;
    perform pg_advisory_xact_lock(7246002);
    update outbox o set position = e.head + d.place, placed_at = clock_timestamp()
    from event_log e, (
        select key, row_number() over (order by created_at, number) as place
        from (select key, created_at, number from outbox where position is null order by created_at, number limit most) unplaced
    ) d
    where o.key = d.key;
    get diagnostics placed = row_count;
    update event_log set head = head + placed where placed > 0;
    return placed;
end
$$;
--
-- Forgets events that were placed longer than `kept` ago, and remembers how far. Returns how many.
create function outbox_forget(kept interval, most int) returns int
language plpgsql as $$
declare
    forgotten int;
    last bigint;
begin
    perform pg_advisory_xact_lock(7246002);
    with oldest as (
        select key, placed_at from outbox where position is not null order by position limit most
    ), deleted as (
        delete from outbox o using oldest d where o.key = d.key and d.placed_at < now() - kept returning o.position
    )
    select count(*), max(position) into forgotten, last from deleted;
    update event_log set gone = last where last is not null;
    return forgotten;
end
$$;
