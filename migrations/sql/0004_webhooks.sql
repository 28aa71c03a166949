-- How far the log of events has been taken over for a webhook. `endpoint` is a digest of its address, which may be a secret.
create table webhook_endpoints (
    endpoint text not null,
    taken bigint not null,
    constraint pk_webhook_endpoints primary key (endpoint)
);
--
create table webhook_deliveries (
    endpoint text not null,
    event uuid not null,
    attempts integer not null default 0,
    next_at timestamptz not null default now(),
    outcome text,
    finished_at timestamptz,
    constraint pk_webhook_deliveries primary key (endpoint, event),
    constraint ck_webhook_deliveries_outcome check (outcome in ('DELIVERED', 'GIVEN_UP'))
);
--
create index ix_webhook_deliveries_due on webhook_deliveries (endpoint, next_at) where finished_at is null;
--
create index ix_webhook_deliveries_finished_at on webhook_deliveries (finished_at);
