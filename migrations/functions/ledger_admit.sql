-- Admits a batch of calls and top-ups, one after the other, each all or nothing over every budget in its scope. `admitting` is the process
-- that asks. `ord` of an answer is the place of its request; `verdict` is 'admitted', 'joined' (another call has the idempotency key),
-- 'mismatch' (with another input), 'refused' or 'unpriced' (by `budget`), or 'gone' (a top-up of a call that is no longer open).
--
-- Locks, in the one order of the ledger:
-- 1. the ledger, shared; exclusively if default budgets are to be made, because a budget opens with the sums of all that is committed;
-- 2. the calls that it may change, by key: a repeat, a top-up, or the holder of an idempotency key;
-- 3. the periods of all budgets in scope, by budget and start. Limits are read after that, so no hold passes a limit that is in force.
-- A call that another transaction inserts meanwhile is a unique violation: the whole batch is decided again.
--
-- A new plan for each call looks cheaper for small batches. But planning is most of their cost, so the plan is generic.
create or replace function ledger_admit(
    admitting uuid, lease interval, retention interval, defaults jsonb, payers ledger_payer[], targets ledger_target[], requests ledger_request[]
)
returns table (ord int, verdict text, call uuid, cap int, capped boolean, admitted_at timestamptz, budget uuid, needed numeric, remaining numeric)
language plpgsql set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    -- The calls that the batch may change.
    known_calls uuid[];
    -- Place by place: this budget counts for this payer and target at this moment.
    m_payer int[]; m_target int[]; m_at timestamptz[]; m_budget uuid[];
    -- Place by place: the period of this budget that contains this moment.
    p_budget uuid[]; p_at timestamptz[]; p_start timestamptz[]; p_end timestamptz[];
    -- The slots: each locked period once, the room that is left in it, and whether its budget refuses.
    k_budget uuid[]; k_start timestamptz[]; k_room numeric[]; k_block boolean[];
    -- The periods that refused a call.
    f_budget uuid[] := '{}'; f_start timestamptz[] := '{}';
    admitted ledger_admitted[] := '{}';
    holds ledger_hold[] := '{}';
    r record;
    slot bigint;
    tight bigint;
    amount numeric;
begin
    if jsonb_array_length(defaults) = 0 then
        perform pg_advisory_xact_lock_shared(ledger_lock());
    else
        perform pg_advisory_xact_lock(ledger_lock());
        perform budget_open(made.key) from materialise_defaults(defaults) made;
    end if;

    select array_agg(c.key) into known_calls
    from unnest(requests) q
    join unnest(payers) with ordinality y (tenant, agent, key_name, operation, labels, place) on y.place = q.payer
    cross join lateral (
        select c.key from completions c where c.key = q.call
        union all
        select c.key from completions c
        where q.idem is not null and c.tenant = y.tenant and c.operation = y.operation and c.idempotency_key = q.idem and c.key <> q.call
    ) c;
    if known_calls is not null then
        perform from completions where key = any (known_calls) order by key for update;
        delete from completions where key = any (known_calls) and idempotency_key is not null and expires_at <= now() and status <> 'RUNNING';
    end if;

    select array_agg(d.payer), array_agg(d.target), array_agg(d.at), array_agg(m.budget) into m_payer, m_target, m_at, m_budget
    from (select distinct payer, target, coalesce(at, now()) as at from unnest(requests)) d
    join unnest(payers) with ordinality y (tenant, agent, key_name, operation, labels, place) on y.place = d.payer
    join unnest(targets) with ordinality t (provider, model, place) on t.place = d.target
    cross join lateral budgets_for(y.tenant, y.agent, t.provider, t.model, y.labels) m;
    if m_budget is not null then
        select array_agg(budget), array_agg(at), array_agg(starts), array_agg(ends) into p_budget, p_at, p_start, p_end
        from periods_of(m_budget, m_at);
        perform lock_periods(array_agg(budget), array_agg(starts), array_agg(ends))
        from (select distinct * from unnest(p_budget, p_start, p_end) t (budget, starts, ends)) touched;
        select array_agg(p.budget), array_agg(p.period_start), array_agg(b.limit_usd - p.spent_usd - p.held_usd), array_agg(b.enforcement = 'BLOCK')
        into k_budget, k_start, k_room, k_block
        from budget_periods p join budgets b on b.key = p.budget
        where b.deleted_at is null and (p.budget, p.period_start) in (select * from unnest(p_budget, p_start));
    end if;

    for r in
        select q.*, c.key as known, c.owner, c.status, c.request_hash, c.output_cap, c.capped, c.admitted_at, c.swept_at is not null as swept,
            coalesce(s.slots, '{}') as slots
        from unnest(requests) with ordinality q (
            call, payer, target, input_tokens, max_out, min_out, input_usd, token_usd, idem, hash, at, ord
        )
        join unnest(payers) with ordinality y (tenant, agent, key_name, operation, labels, place) on y.place = q.payer
        left join lateral (
            select * from completions c where c.key = q.call and q.call = any (known_calls)
            union all
            select * from completions c
            where known_calls is not null and q.idem is not null and c.tenant = y.tenant and c.operation = y.operation
                and c.idempotency_key = q.idem and c.key <> q.call and c.key = any (known_calls)
            limit 1
        ) c on true
        left join (
            select m.payer, m.target, m.at, array_agg(k.slot) as slots
            from unnest(m_payer, m_target, m_at, m_budget) m (payer, target, at, budget)
            join unnest(p_budget, p_at, p_start) p (budget, at, starts) using (budget, at)
            join unnest(k_budget, k_start) with ordinality k (budget, starts, slot) using (budget, starts)
            group by m.payer, m.target, m.at
        ) s on s.payer = q.payer and s.target = q.target and s.at = coalesce(q.at, now())
        order by q.ord
    loop
        ord := r.ord; call := coalesce(r.known, r.call); cap := r.max_out; capped := false; admitted_at := now();
        budget := null; needed := null; remaining := null; verdict := null;
        if r.at is not null then
            if r.known is null or r.status <> 'RUNNING' or r.owner <> admitting then
                verdict := 'gone';
            end if;
        elsif r.known is not null then
            if r.known = r.call and r.owner = admitting and r.status = 'RUNNING' then
                verdict := 'admitted'; cap := r.output_cap; capped := r.capped; admitted_at := r.admitted_at;
            elsif r.request_hash is distinct from r.hash then
                verdict := 'mismatch';
            elsif not r.swept then
                verdict := 'joined';
            end if;
        end if;

        if verdict is null then
            tight := null;
            foreach slot in array r.slots loop
                if k_block[slot] and (tight is null or k_room[slot] < k_room[tight]) then
                    tight := slot;
                end if;
            end loop;
            verdict := 'admitted';
            if r.input_usd is null or r.token_usd is null then
                amount := null;
                if tight is not null then
                    verdict := 'unpriced'; budget := k_budget[tight];
                end if;
            elsif tight is not null and r.input_usd + r.min_out * r.token_usd > greatest(k_room[tight], 0) then
                verdict := 'refused'; budget := k_budget[tight];
                needed := r.input_usd + r.min_out * r.token_usd; remaining := greatest(k_room[tight], 0);
                f_budget := f_budget || k_budget[tight]; f_start := f_start || k_start[tight];
            else
                if tight is not null and r.input_usd + r.max_out * r.token_usd > greatest(k_room[tight], 0) then
                    cap := floor((k_room[tight] - r.input_usd) / r.token_usd); capped := true;
                end if;
                amount := ceil((r.input_usd + cap * r.token_usd) * 1000000000000) / 1000000000000;
                foreach slot in array r.slots loop
                    k_room[slot] := k_room[slot] - amount;
                    holds := holds || row(ord, k_budget[slot], k_start[slot], amount)::ledger_hold;
                end loop;
            end if;
            if verdict = 'admitted' then
                admitted := admitted || row(
                    ord, call, cap, capped, amount,
                    case when r.at is not null then 'topup' when r.known is not null then 'again' else 'new' end
                )::ledger_admitted;
            end if;
        end if;
        return next;
    end loop;

    perform write_admissions(admitting, lease, retention, payers, targets, requests, admitted, holds);
    if cardinality(holds) > 0 then
        update budget_periods p set held_usd = p.held_usd + taken.usd
        from (select h.budget, h.starts, sum(h.usd) as usd from unnest(holds) h group by h.budget, h.starts) taken
        where p.budget = taken.budget and p.period_start = taken.starts;
    end if;
    if cardinality(f_budget) > 0 then
        perform raise_alerts(f_budget, f_start, true);
    end if;
end
$$;
