-- Admits a batch of calls and top-ups, one after the other, each all or nothing over every budget in its scope.
-- The calls that it may change are locked first, then the budgets' periods, and limits are read after, so that no hold passes one in force.
-- A call that comes up meanwhile is a unique violation: the whole batch is decided again.
create function ledger_admit(
    admitting uuid, lease interval, keep interval, defaults jsonb, payers ledger_payer[], targets ledger_target[], requests ledger_request[]
)
returns table (ord int, verdict text, call uuid, cap int, capped boolean, admitted_at timestamptz, budget uuid, needed numeric, remaining numeric)
language plpgsql set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    known_calls uuid[];
    m_payer int[]; m_target int[]; m_at timestamptz[]; m_budget uuid[];
    p_budget uuid[]; p_at timestamptz[]; p_start timestamptz[]; p_end timestamptz[];
    k_budget uuid[]; k_start timestamptz[]; k_room numeric[]; k_block boolean[];
    a_ord int[] := '{}'; a_call uuid[] := '{}'; a_cap int[] := '{}'; a_capped boolean[] := '{}'; a_usd numeric[] := '{}'; a_kind text[] := '{}';
    h_ord int[] := '{}'; h_slot bigint[] := '{}'; h_usd numeric[] := '{}';
    f_budget uuid[] := '{}'; f_start timestamptz[] := '{}';
    r record;
    slot bigint;
    tight bigint;
    amount numeric;
begin
    if jsonb_array_length(defaults) = 0 then
        perform pg_advisory_xact_lock_shared(7246001);
    else
        perform pg_advisory_xact_lock(7246001);
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
            elsif tight is not null and r.input_usd + r.min_out * r.token_usd > k_room[tight] then
                verdict := 'refused'; budget := k_budget[tight];
                needed := r.input_usd + r.min_out * r.token_usd; remaining := greatest(k_room[tight], 0);
                f_budget := f_budget || k_budget[tight]; f_start := f_start || k_start[tight];
            else
                if tight is not null and r.input_usd + r.max_out * r.token_usd > k_room[tight] then
                    cap := floor((k_room[tight] - r.input_usd) / r.token_usd); capped := true;
                end if;
                amount := ceil((r.input_usd + cap * r.token_usd) * 1000000000000) / 1000000000000;
                foreach slot in array r.slots loop
                    k_room[slot] := k_room[slot] - amount;
                    h_ord := h_ord || ord; h_slot := h_slot || slot; h_usd := h_usd || amount;
                end loop;
            end if;
            if verdict = 'admitted' then
                a_ord := a_ord || ord; a_call := a_call || call; a_cap := a_cap || cap; a_capped := a_capped || capped; a_usd := a_usd || amount;
                a_kind := a_kind || case when r.at is not null then 'topup' when r.known is not null then 'again' else 'new' end;
            end if;
        end if;
        return next;
    end loop;

    perform write_admissions(
        admitting, lease, keep, payers, targets, requests, a_ord, a_call, a_cap, a_capped, a_usd, a_kind, h_ord, h_slot, h_usd, k_budget, k_start
    );
    if cardinality(h_ord) > 0 then
        update budget_periods p set held_usd = p.held_usd + taken.usd
        from (select h.slot, sum(h.usd) as usd from unnest(h_slot, h_usd) h (slot, usd) group by 1) taken
        where p.budget = k_budget[taken.slot] and p.period_start = k_start[taken.slot];
    end if;
    if cardinality(f_budget) > 0 then
        perform raise_alerts(f_budget, f_start, true);
    end if;
end
$$;
--
-- The rows of admitted calls.
create function write_admissions(
    admitting uuid, lease interval, keep interval, payers ledger_payer[], targets ledger_target[], requests ledger_request[],
    a_ord int[], a_call uuid[], a_cap int[], a_capped boolean[], a_usd numeric[], a_kind text[],
    h_ord int[], h_slot bigint[], h_usd numeric[], k_budget uuid[], k_start timestamptz[]
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
        coalesce(h.budgets, '{}'), coalesce(h.starts, '{}'), coalesce(h.usd, '{}'), a.cap, a.capped, now(), now() + keep
    from unnest(requests) with ordinality q (
        call, payer, target, input_tokens, max_out, min_out, input_usd, token_usd, idem, hash, at, ord
    )
    join unnest(payers) with ordinality y (tenant, agent, key_name, operation, labels, place) on y.place = q.payer
    join unnest(targets) with ordinality t (provider, model, place) on t.place = q.target
    join unnest(a_ord, a_cap, a_capped, a_usd, a_kind) a (ord, cap, capped, usd, kind) on a.ord = q.ord and a.kind = 'new'
    left join (
        select g.ord, array_agg(k_budget[g.slot]) as budgets, array_agg(k_start[g.slot]) as starts, array_agg(g.usd) as usd
        from unnest(h_ord, h_slot, h_usd) g (ord, slot, usd) group by g.ord
    ) h on h.ord = q.ord
    order by y.tenant, y.operation, q.idem, q.call;

    if a_kind && array['topup', 'again'] then
        update completions c
        set estimates = case a.kind when 'topup' then c.estimates else '[]' end
                || jsonb_build_object('provider', t.provider, 'model', t.model, 'input', q.input_tokens, 'cap', a.cap, 'usd', a.usd),
            hold_budgets = c.hold_budgets || h.budgets, hold_starts = c.hold_starts || h.starts, hold_usd = c.hold_usd || h.usd,
            output_cap = a.cap, capped = a.capped, owner = admitting, lease_until = now() + lease, status = 'RUNNING', swept_at = null,
            finished_at = null, admitted_at = case a.kind when 'topup' then c.admitted_at else now() end,
            expires_at = case a.kind when 'topup' then c.expires_at else now() + keep end
        from unnest(requests) with ordinality q (
            call, payer, target, input_tokens, max_out, min_out, input_usd, token_usd, idem, hash, at, ord
        )
        join unnest(targets) with ordinality t (provider, model, place) on t.place = q.target
        join unnest(a_ord, a_call, a_cap, a_capped, a_usd, a_kind) a (ord, call, cap, capped, usd, kind) on a.ord = q.ord and a.kind <> 'new'
        left join (
            select g.ord, array_agg(k_budget[g.slot]) as budgets, array_agg(k_start[g.slot]) as starts, array_agg(g.usd) as usd
            from unnest(h_ord, h_slot, h_usd) g (ord, slot, usd) group by g.ord
        ) h on h.ord = q.ord
        where c.key = a.call
            and case a.kind when 'topup' then c.status = 'RUNNING' and c.owner = admitting else c.swept_at is not null end;
        get diagnostics changed = row_count;
        if changed < (select count(*) from unnest(a_kind) kind where kind <> 'new') then
            raise exception 'a call changed while it was decided' using errcode = 'serialization_failure';
        end if;
    end if;
end
$$;
--
-- The periods of budgets at moments, each pair once. A TOTAL budget has none before its creation.
create function periods_of(budgets_wanted uuid[], moments timestamptz[])
returns table (budget uuid, at timestamptz, starts timestamptz, ends timestamptz)
language sql stable
begin atomic
    select d.budget, d.at, p.starts, p.ends
    from (select distinct * from unnest(periods_of.budgets_wanted, periods_of.moments) u (budget, at)) d
    join budgets b on b.key = d.budget
    cross join lateral budget_period(b.period, b.time_zone, b.created_at, d.at) p
    where b.period <> 'TOTAL' or b.created_at <= d.at;
end;
--
-- A budget for each tenant and agent that the configuration gives one, made with its first call and never again.
create function materialise_defaults(defaults jsonb) returns setof budgets
language sql
begin atomic
    insert into budgets (key, name, tenant, agent, limit_usd, period, time_zone, thresholds, enforcement, origin)
    select gen_random_uuid(), d.name, d.tenant, d.agent, d.limit_usd, d.period, d.time_zone, d.thresholds, d.enforcement, 'default'
    from jsonb_to_recordset(defaults) d (
        name text, tenant text, agent text, limit_usd numeric, period text, time_zone text, thresholds int[], enforcement text
    )
    order by d.tenant, d.agent
    on conflict (tenant, agent) where origin = 'default' do nothing
    returning *;
end;
