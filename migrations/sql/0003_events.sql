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
