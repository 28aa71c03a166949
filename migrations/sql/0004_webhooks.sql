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
--
-- Takes over the events that were placed since; a webhook that is seen for the first time gets those from now on.
create function webhook_take(taker text, wanted text) returns void
language plpgsql as $$
declare
    after bigint;
    upto bigint;
begin
    insert into webhook_endpoints (endpoint, taken) select taker, head from event_log on conflict do nothing;
    select taken into after from webhook_endpoints where endpoint = taker for update;
    select head into upto from event_log;
    if upto > after then
        insert into webhook_deliveries (endpoint, event)
        select taker, key from outbox where topic = wanted and position > after and position <= upto
        on conflict do nothing;
        update webhook_endpoints set taken = upto where endpoint = taker;
    end if;
end
$$;
