-- Takes over the events that got their positions since the last call. A webhook that is seen for the first time gets events from now on.
--
-- Locks the webhook's own row, then reads how far the log is: one process at a time takes over for a webhook, and none of them skips.
create or replace function webhook_take(taker text, wanted text) returns void
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
