-- Settles, at their estimates, at most `most` calls whose owner stopped renewing them. Returns how many.
--
-- Locks the ledger shared, then the calls by key, without waiting: a call that another transaction has locked is being settled or swept
-- there. `ledger_settle` goes on from these locks.
create or replace function ledger_sweep(most int) returns int
language plpgsql as $$
declare
    payers ledger_payer[];
    prices ledger_price[];
    calls ledger_call[];
    attempts ledger_attempt[];
begin
    perform pg_advisory_xact_lock_shared(ledger_lock());
    with expired as materialized (
        select * from completions where status = 'RUNNING' and lease_until < now() order by key limit most for update skip locked
    ), numbered as materialized (
        select row_number() over (order by key) as ord, * from expired
    ), estimated as materialized (
        select row_number() over (order by n.ord) as place, n.ord, n.admitted_at, x.*
        from numbered n
        cross join lateral jsonb_to_recordset(n.estimates) x (provider text, model text, input bigint, cap bigint, usd numeric)
    )
    select n.payers, n.calls, e.prices, e.attempts into payers, calls, prices, attempts
    from (
        select array_agg(row(tenant, agent, key_name, operation, labels)::ledger_payer order by ord) as payers,
            array_agg(row(key, admitted_at, ord, 'FAILED')::ledger_call order by ord) as calls
        from numbered
    ) n
    cross join (
        select array_agg(row(provider, model, null, null, null, null, null)::ledger_price order by place) as prices,
            array_agg(row(
                ord, place, gen_random_uuid(), 'FAILED', null, input, 0, 0, 0, cap, 0, usd, null, null,
                extract(epoch from now() - admitted_at) * 1000, false
            )::ledger_attempt order by place) as attempts
        from estimated
    ) e;
    if calls is null then
        return 0;
    end if;
    perform ledger_settle(null, null, payers, prices, calls, attempts, '{}');
    return cardinality(calls);
end
$$;
