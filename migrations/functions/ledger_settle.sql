-- Settles a batch: usage rows, the budgets' sums, roll-ups, alerts and the calls' ends, in one transaction. A call that was settled before,
-- or that the batch names twice, changes nothing. One without a status used nothing: it is released and forgotten. A call that was swept
-- meanwhile has its estimate taken out and the real figures put in, in the period of its admission.
-- `settling` is the process that owns the calls; null is the sweeper, which has locked them.
-- The sums for budgets and roll-ups are those of the usage rows that were really written and removed, so they match the rows even if a call
-- comes twice.
--
-- Locks, in the one order of the ledger:
-- 1. the ledger, shared;
-- 2. the calls, by key: what is decided about a call stays true until it is written;
-- 3. the periods of every budget that is charged or gives back, by budget and start (`charge_budgets`);
-- 4. the roll-ups, by their key (`write_rollups`). Label roll-ups are not written: their quarters are marked (`mark_stale_labels`).
--
-- The usage rows of a late call are looked up by `is not distinct from`, which PostgreSQL cannot use to choose partitions: version 18.6
-- crashes when it chooses them anew for each row of this query (perform_pruning_base_step).
--
-- A new plan for each call looks cheaper for small batches. But planning is most of their cost, so the plan is generic.
create or replace function ledger_settle(
    settling uuid, retention interval, payers ledger_payer[], prices ledger_price[], calls ledger_call[], attempts ledger_attempt[], documents bytea[]
) returns void
language plpgsql set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    found_calls ledger_found[]; done boolean;
    h_budget uuid[]; h_start timestamptz[]; h_usd numeric[];
    sums ledger_sum[];
begin
    perform pg_advisory_xact_lock_shared(ledger_lock());

    with locked as materialized (
        select ctid as place, key, owner, status, swept_at, admitted_at, hold_budgets, hold_starts, hold_usd
        from completions where key = any (array(select q.call from unnest(calls) q)) order by key for update
    ), resolved as materialized (
        select q.ord::int as ord, q.call, coalesce(q.at, c.admitted_at, now()) as at, q.payer, q.status, c.place,
            c.hold_budgets, c.hold_starts, c.hold_usd,
            case
                when row_number() over (partition by q.call order by q.status is null, q.ord) > 1 then 'done'
                when c.key is null and q.at is null and q.status is null then 'done'
                when c.key is null and q.at is null then 'new'
                when c.owner = coalesce(settling, c.owner) and c.status = 'RUNNING' then 'open'
                when c.owner = settling and c.swept_at is null then 'done'
                when exists (
                    select from unnest(attempts) a join usage_records u on u.key = a.key and u.at is not distinct from q.at
                    where a.call = q.ord
                ) then 'done'
                when c.key is null then 'new'
                else 'late'
            end as state
        from unnest(calls) with ordinality q (call, at, payer, status, ord)
        left join locked c on c.key = q.call
    )
    select s.calls, s.done, h.budgets, h.starts, h.usd into found_calls, done, h_budget, h_start, h_usd
    from (
        select array_agg(row(ord, call, at, payer, status, state, place)::ledger_found order by ord) as calls, bool_and(state = 'done') as done
        from resolved
    ) s
    cross join (
        select array_agg(budget) as budgets, array_agg(starts) as starts, array_agg(usd) as usd
        from (
            select h.budget, h.starts, sum(h.usd) as usd
            from resolved o cross join lateral unnest(o.hold_budgets, o.hold_starts, o.hold_usd) h (budget, starts, usd)
            where o.state = 'open' and o.hold_budgets <> '{}'
            group by h.budget, h.starts
        ) held
    ) h;
    if done then
        return;
    end if;

    sums := write_usage(payers, prices, found_calls, attempts);
    if exists (select from unnest(found_calls) f where f.state = 'late') then
        sums := sums || remove_estimates(found_calls);
    end if;
    perform charge_budgets(sums, h_budget, h_start, h_usd);
    perform write_rollups(sums);
    perform mark_stale_labels(sums);
    perform close_calls(settling, retention, payers, found_calls, documents);
end
$$;
