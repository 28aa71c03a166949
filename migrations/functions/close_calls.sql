-- Writes the ends of settled calls. A late settlement ends its row only if no other run of the call has taken the row over.
--
-- The caller has locked the calls that exist, at the places that `found_calls` names: a row stays there while it is locked, so it is not
-- looked up again. New rows are inserted by key.
create or replace function close_calls(settling uuid, retention interval, payers ledger_payer[], found_calls ledger_found[], documents bytea[]) returns void
language plpgsql as $$
begin
    update completions c
    set status = f.status, document = f.document, finished_at = now(), lease_until = null, hold_budgets = '{}', hold_starts = '{}',
        hold_usd = '{}', swept_at = case when settling is null then now() end
    from unnest(found_calls, documents) f (ord, call, at, payer, status, state, place, document)
    where c.ctid = f.place and (settling is null or c.owner = settling) and f.status is not null and f.state in ('open', 'late');
    if exists (select from unnest(found_calls) f where f.status is null and f.state <> 'done') then
        delete from completions c using unnest(found_calls) f where c.key = f.call and c.owner = settling and f.status is null and f.state <> 'done';
    end if;
    if exists (select from unnest(found_calls) f where f.state = 'new' and f.status is not null) then
        insert into completions (
            key, tenant, agent, key_name, operation, labels, owner, status, estimates, admitted_at, finished_at, expires_at, document
        )
        select f.call, y.tenant, y.agent, y.key_name, y.operation, y.labels, settling, f.status, '[]', f.at, now(), now() + retention, f.document
        from unnest(found_calls, documents) f (ord, call, at, payer, status, state, place, document)
        join unnest(payers) with ordinality y (tenant, agent, key_name, operation, labels, place) on y.place = f.payer
        where f.state = 'new' and f.status is not null
        order by f.call
        on conflict (key) do nothing;
    end if;
end
$$;
