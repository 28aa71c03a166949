-- Admits a batch of calls and top-ups, one after the other, each all or nothing over every budget in its scope.
-- The budgets' periods are locked first and their limits read after, so that no hold passes a limit in force.
create function ledger_admit(requests jsonb, admitting uuid, lease interval, keep interval, defaults jsonb)
returns table (ord int, verdict text, call uuid, cap int, capped boolean, admitted_at timestamptz, budget uuid, needed numeric, remaining numeric)
language plpgsql as $$
#variable_conflict use_column
declare
    m_ord int[]; m_budget uuid[]; m_start timestamptz[]; m_end timestamptz[];
    k_budget uuid[]; k_start timestamptz[]; k_room numeric[]; k_block boolean[];
    a_ord int[] := '{}'; a_call uuid[] := '{}'; a_cap int[] := '{}'; a_capped boolean[] := '{}'; a_usd numeric[] := '{}'; a_kind text[] := '{}';
    h_call uuid[] := '{}'; h_budget uuid[] := '{}'; h_start timestamptz[] := '{}'; h_usd numeric[] := '{}';
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

    select array_agg(q.ord), array_agg(m.budget), array_agg(m.starts), array_agg(m.ends)
    into m_ord, m_budget, m_start, m_end
    from jsonb_to_recordset(requests) q (ord int, tenant text, agent text, provider text, model text, labels jsonb, at timestamptz)
    cross join lateral budgets_for(q.tenant, q.agent, q.provider, q.model, q.labels, coalesce(q.at, now())) m;
    if m_ord is not null then
        perform lock_periods(m_budget, m_start, m_end);
        select array_agg(p.budget), array_agg(p.period_start), array_agg(b.limit_usd - p.spent_usd - p.held_usd), array_agg(b.enforcement = 'BLOCK')
        into k_budget, k_start, k_room, k_block
        from budget_periods p join budgets b on b.key = p.budget
        where b.deleted_at is null and (p.budget, p.period_start) in (select * from unnest(m_budget, m_start));
    end if;

    for r in
        select q.*, c.key as known, c.owner, c.status, c.request_hash, c.output_cap, c.capped, c.admitted_at, c.swept_at is not null as swept,
            coalesce(s.slots, '{}') as slots
        from jsonb_to_recordset(requests) q (
            ord int, call uuid, tenant text, operation text, max_out int, min_out int, input_usd numeric, token_usd numeric,
            idem text, hash bytea, topup boolean
        )
        left join lateral (
            select * from completions c where c.key = q.call
            union all
            select * from completions c
            where q.idem is not null and c.tenant = q.tenant and c.operation = q.operation and c.idempotency_key = q.idem
                and c.key <> q.call and c.expires_at > now()
            limit 1
        ) c on true
        left join (
            select m.ord, array_agg(k.slot) as slots
            from unnest(m_ord, m_budget, m_start) m (ord, budget, starts)
            join unnest(k_budget, k_start) with ordinality k (budget, starts, slot) using (budget, starts)
            group by m.ord
        ) s on s.ord = q.ord
        order by q.ord
    loop
        ord := r.ord; call := coalesce(r.known, r.call); cap := r.max_out; capped := false; admitted_at := now();
        budget := null; needed := null; remaining := null; verdict := null;
        if r.topup then
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
                    h_call := h_call || call; h_budget := h_budget || k_budget[slot]; h_start := h_start || k_start[slot]; h_usd := h_usd || amount;
                end loop;
            end if;
            if verdict = 'admitted' then
                a_ord := a_ord || ord; a_call := a_call || call; a_cap := a_cap || cap; a_capped := a_capped || capped; a_usd := a_usd || amount;
                a_kind := a_kind || case when r.topup then 'topup' when r.known is not null then 'again' else 'new' end;
            end if;
        end if;
        return next;
    end loop;

    perform write_admissions(requests, admitting, lease, keep, a_ord, a_call, a_cap, a_capped, a_usd, a_kind);
    if cardinality(h_call) > 0 then
        insert into holds as held (call, budget, period_start, amount_usd)
        select * from unnest(h_call, h_budget, h_start, h_usd)
        on conflict on constraint pk_holds do update set amount_usd = held.amount_usd + excluded.amount_usd;
        update budget_periods p set held_usd = p.held_usd + taken.usd
        from (select h.budget, h.starts, sum(h.usd) as usd from unnest(h_budget, h_start, h_usd) h (budget, starts, usd) group by 1, 2) taken
        where p.budget = taken.budget and p.period_start = taken.starts;
    end if;
    if cardinality(f_budget) > 0 then
        perform raise_alerts(f_budget, f_start, true);
    end if;
end
$$;
--
-- The rows of admitted calls. A call whose key was taken meanwhile is a unique violation: the whole batch is decided again.
create function write_admissions(
    requests jsonb, admitting uuid, lease interval, keep interval,
    a_ord int[], a_call uuid[], a_cap int[], a_capped boolean[], a_usd numeric[], a_kind text[]
) returns void
language plpgsql as $$
declare
    changed bigint;
begin
    delete from completions c
    using jsonb_to_recordset(requests) q (tenant text, operation text, idem text)
    where q.idem is not null and c.tenant = q.tenant and c.operation = q.operation and c.idempotency_key = q.idem and c.expires_at <= now();

    insert into completions (
        key, tenant, agent, key_name, operation, labels, idempotency_key, request_hash, owner, lease_until, status,
        estimates, output_cap, capped, admitted_at, expires_at
    )
    select q.call, q.tenant, q.agent, q.key_name, q.operation, q.labels, q.idem, q.hash, admitting, now() + lease, 'RUNNING',
        jsonb_build_array(jsonb_build_object('provider', q.provider, 'model', q.model, 'input', q.input_tokens, 'cap', a.cap, 'usd', a.usd)),
        a.cap, a.capped, now(), now() + keep
    from jsonb_to_recordset(requests) q (
        ord int, call uuid, tenant text, agent text, key_name text, operation text, labels jsonb, idem text, hash bytea,
        provider text, model text, input_tokens int
    )
    join unnest(a_ord, a_cap, a_capped, a_usd, a_kind) a (ord, cap, capped, usd, kind) on a.ord = q.ord and a.kind = 'new'
    order by q.tenant, q.operation, q.idem, q.call;

    if a_kind && array['topup', 'again'] then
        update completions c
        set estimates = case a.kind when 'topup' then c.estimates else '[]' end
                || jsonb_build_object('provider', q.provider, 'model', q.model, 'input', q.input_tokens, 'cap', a.cap, 'usd', a.usd),
            output_cap = a.cap, capped = a.capped, owner = admitting, lease_until = now() + lease, status = 'RUNNING', swept_at = null,
            finished_at = null, admitted_at = case a.kind when 'topup' then c.admitted_at else now() end,
            expires_at = case a.kind when 'topup' then c.expires_at else now() + keep end
        from jsonb_to_recordset(requests) q (ord int, provider text, model text, input_tokens int)
        join unnest(a_ord, a_call, a_cap, a_capped, a_usd, a_kind) a (ord, call, cap, capped, usd, kind) on a.ord = q.ord and a.kind <> 'new'
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
