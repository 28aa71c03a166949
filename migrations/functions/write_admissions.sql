-- Writes what `ledger_admit` has decided: a row for each new call, and the changed rows of calls that are held for again.
-- `admitted` has one row a decision and `holds` one a budget's period that the decision holds in; both name the request by its place.
--
-- The caller holds the ledger's lock, the rows of all calls that are changed here, and the periods. New rows are inserted in the order of
-- the unique index on idempotency keys, so that two batches that insert the same keys wait for each other in one direction. A call that
-- another transaction inserted meanwhile is a unique violation, and one that it changed is a serialisation failure: both undo the batch,
-- which is then decided again.
create or replace function write_admissions(
    admitting uuid, lease interval, retention interval, payers ledger_payer[], targets ledger_target[], requests ledger_request[],
    admitted ledger_admitted[], holds ledger_hold[]
) returns void
language plpgsql as $$
declare
    changed bigint;
begin
    insert into completions (
        key, tenant, agent, key_name, operation, labels, idempotency_key, request_hash, owner, lease_until, status,
        estimates, hold_budgets, hold_starts, hold_usd, output_cap, capped, admitted_at, expires_at
    )
    select q.call, y.tenant, y.agent, y.key_name, y.operation, y.labels, q.idem, q.hash, admitting, now() + lease, 'RUNNING',
        jsonb_build_array(jsonb_build_object('provider', t.provider, 'model', t.model, 'input', q.input_tokens, 'cap', a.cap, 'usd', a.usd)),
        coalesce(h.budgets, '{}'), coalesce(h.starts, '{}'), coalesce(h.usd, '{}'), a.cap, a.capped, now(), now() + retention
    from unnest(requests) with ordinality q (
        call, payer, target, input_tokens, max_out, min_out, input_usd, token_usd, idem, hash, at, ord
    )
    join unnest(payers) with ordinality y (tenant, agent, key_name, operation, labels, place) on y.place = q.payer
    join unnest(targets) with ordinality t (provider, model, place) on t.place = q.target
    join unnest(admitted) a on a.ord = q.ord and a.kind = 'new'
    left join (
        select g.ord, array_agg(g.budget) as budgets, array_agg(g.starts) as starts, array_agg(g.usd) as usd
        from unnest(holds) g group by g.ord
    ) h on h.ord = q.ord
    order by y.tenant, y.operation, q.idem, q.call;

    if exists (select from unnest(admitted) a where a.kind <> 'new') then
        update completions c
        set estimates = case a.kind when 'topup' then c.estimates else '[]' end
                || jsonb_build_object('provider', t.provider, 'model', t.model, 'input', q.input_tokens, 'cap', a.cap, 'usd', a.usd),
            hold_budgets = c.hold_budgets || h.budgets, hold_starts = c.hold_starts || h.starts, hold_usd = c.hold_usd || h.usd,
            output_cap = a.cap, capped = a.capped, owner = admitting, lease_until = now() + lease, status = 'RUNNING', swept_at = null,
            finished_at = null, admitted_at = case a.kind when 'topup' then c.admitted_at else now() end,
            expires_at = case a.kind when 'topup' then c.expires_at else now() + retention end
        from unnest(requests) with ordinality q (
            call, payer, target, input_tokens, max_out, min_out, input_usd, token_usd, idem, hash, at, ord
        )
        join unnest(targets) with ordinality t (provider, model, place) on t.place = q.target
        join unnest(admitted) a on a.ord = q.ord and a.kind <> 'new'
        left join (
            select g.ord, array_agg(g.budget) as budgets, array_agg(g.starts) as starts, array_agg(g.usd) as usd
            from unnest(holds) g group by g.ord
        ) h on h.ord = q.ord
        where c.key = a.call
            and case a.kind when 'topup' then c.status = 'RUNNING' and c.owner = admitting else c.swept_at is not null end;
        get diagnostics changed = row_count;
        if changed < (select count(*) from unnest(admitted) a where a.kind <> 'new') then
            raise exception 'a call changed while it was decided' using errcode = 'serialization_failure';
        end if;
    end if;
end
$$;
