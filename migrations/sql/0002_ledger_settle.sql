-- Settles a batch: usage rows, the budgets' sums, roll-ups, alerts and the calls' ends, in one transaction. A call that was
-- settled before changes nothing. One without a status used nothing: it is released and forgotten. A call that was swept
-- meanwhile has its estimate taken out and the real figures put in, in the period of its admission.
create function ledger_settle(calls jsonb, attempts jsonb, documents bytea[]) returns void
language plpgsql as $$
#variable_conflict use_column
declare
    wanted uuid[];
    s_ord int[]; s_call uuid[]; s_at timestamptz[]; s_state text[];
    m_budget uuid[]; m_at timestamptz[]; m_cost numeric[];
    t_budget uuid[]; t_start timestamptz[]; t_end timestamptz[]; t_spent numeric[]; t_held numeric[];
    due boolean;
begin
    perform pg_advisory_xact_lock_shared(7246001);
    wanted := array(select q.call from jsonb_to_recordset(calls) q (call uuid));

    with locked as materialized (
        select key, owner, status, swept_at, admitted_at from completions where key = any (wanted) order by key for update
    )
    select array_agg(ord), array_agg(call), array_agg(at), array_agg(state) into s_ord, s_call, s_at, s_state
    from (
        select q.ord, q.call, coalesce(q.at, c.admitted_at, now()) as at,
            case
                when c.key is null and q.at is null and q.status is null then 'done'
                when c.key is null and q.at is null then 'new'
                when c.owner = q.owner and c.status = 'RUNNING' then 'open'
                when c.owner = q.owner and c.swept_at is null then 'done'
                when exists (
                    select from jsonb_to_recordset(attempts) a (ord int, key uuid)
                    join usage_records u on u.key = a.key and u.at = q.at where a.ord = q.ord
                ) then 'done'
                when c.key is null then 'new'
                else 'late'
            end as state
        from jsonb_to_recordset(calls) q (ord int, call uuid, owner uuid, at timestamptz, status text)
        left join locked c on c.key = q.call
    ) resolved
    where state <> 'done';
    if s_ord is null then
        return;
    end if;
    perform ledger_retract(l.call, l.at) from unnest(s_call, s_at, s_state) l (call, at, state) where l.state = 'late';

    select array_agg(budget), array_agg(at), array_agg(cost) into m_budget, m_at, m_cost
    from (
        select m.budget, s.at, sum(a.cost) as cost
        from jsonb_to_recordset(attempts) a (ord int, provider text, model text, cost numeric(30, 12))
        join jsonb_to_recordset(calls) q (ord int, tenant text, agent text, labels jsonb) on q.ord = a.ord
        join unnest(s_ord, s_at) s (ord, at) on s.ord = a.ord
        cross join lateral budgets_for(q.tenant, q.agent, a.provider, a.model, q.labels) m
        where a.cost is not null
        group by m.budget, s.at
    ) charged;
    select array_agg(budget), array_agg(starts), array_agg(ends), array_agg(spent), array_agg(held)
    into t_budget, t_start, t_end, t_spent, t_held
    from (
        select budget, starts, max(ends) as ends, sum(spent) as spent, sum(held) as held
        from (
            select p.budget, p.starts, p.ends, m.cost as spent, 0 as held
            from unnest(m_budget, m_at, m_cost) m (budget, at, cost)
            join periods_of(m_budget, m_at) p using (budget, at)
            union all
            select h.budget, h.starts, null, 0, h.usd
            from unnest(s_call, s_state) o (call, state)
            join completions c on c.key = o.call and o.state = 'open'
            cross join lateral unnest(c.hold_budgets, c.hold_starts, c.hold_usd) h (budget, starts, usd)
        ) touched
        group by budget, starts
    ) summed;
    if t_budget is not null then
        perform lock_periods(t_budget, t_start, t_end);
        with changed as (
            update budget_periods p set spent_usd = p.spent_usd + t.spent, held_usd = p.held_usd - t.held
            from unnest(t_budget, t_start, t_spent, t_held) t (budget, starts, spent, held)
            where p.budget = t.budget and p.period_start = t.starts
            returning p.budget, p.spent_usd, t.spent
        )
        select bool_or(c.spent > 0 and c.spent_usd * 100 >= b.limit_usd * b.thresholds[1]) into due
        from changed c join budgets b on b.key = c.budget;
    end if;

    perform write_usage(calls, attempts, s_ord, s_at);
    perform close_calls(calls, documents, s_ord, s_call, s_at, s_state);
    if due then
        perform raise_alerts(t_budget, t_start, false);
    end if;
end
$$;
--
-- The ends of settled calls. A late one ends its row only if no other run of the call has taken it over.
create function close_calls(calls jsonb, documents bytea[], s_ord int[], s_call uuid[], s_at timestamptz[], s_state text[]) returns void
language plpgsql as $$
begin
    update completions c
    set status = q.status, document = documents[s.ord + 1], finished_at = now(), lease_until = null,
        hold_budgets = '{}', hold_starts = '{}', hold_usd = '{}',
        swept_at = case when q.swept then now() end
    from unnest(s_ord, s_call, s_state) s (ord, call, state)
    join jsonb_to_recordset(calls) q (ord int, owner uuid, status text, swept boolean) on q.ord = s.ord
    where c.key = s.call and c.owner = q.owner and q.status is not null and s.state <> 'new';
    if exists (select from jsonb_to_recordset(calls) q (status text) where q.status is null) then
        delete from completions c
        using unnest(s_ord, s_call) s (ord, call)
        join jsonb_to_recordset(calls) q (ord int, owner uuid, status text) on q.ord = s.ord
        where c.key = s.call and c.owner = q.owner and q.status is null;
    end if;
    if 'new' = any (s_state) then
        insert into completions (
            key, tenant, agent, key_name, operation, labels, owner, status, estimates, admitted_at, finished_at, expires_at, document
        )
        select q.call, q.tenant, q.agent, q.key_name, q.operation, q.labels, q.owner, q.status, '[]', s.at, now(), now() + q.keep,
            documents[q.ord + 1]
        from unnest(s_ord, s_at, s_state) s (ord, at, state)
        join jsonb_to_recordset(calls) q (
            ord int, call uuid, owner uuid, tenant text, agent text, key_name text, operation text, labels jsonb, status text, keep interval
        ) on q.ord = s.ord
        where s.state = 'new' and q.status is not null
        order by q.call
        on conflict (key) do nothing;
    end if;
end
$$;
--
-- Usage rows and, from the rows that are really new, the roll-ups of 15 minutes, hours and UTC days.
create function write_usage(calls jsonb, attempts jsonb, s_ord int[], s_at timestamptz[]) returns void
language plpgsql as $$
begin
    with written as (
        insert into usage_records (
            key, at, completion, operation, tenant, agent, labels, key_name, provider, model, outcome, provider_request_id,
            uncached_input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, visible_output_tokens,
            reasoning_tokens, cost_usd, saved_usd, price_input_usd, price_output_usd, price_cache_read_usd, price_cache_write_usd,
            price_source, cache_tier, latency_ms, confirmed
        )
        select a.key, s.at, q.call, q.operation, q.tenant, q.agent, q.labels, q.key_name, a.provider, a.model, a.outcome, a.request_id,
            a.uncached, a.cached, a.write_5m, a.write_1h, a.visible, a.reasoning, a.cost, a.saved, a.price_input, a.price_output,
            a.price_read, a.price_write, a.price_source, a.cache_tier, a.latency, a.confirmed
        from jsonb_to_recordset(attempts) a (
            ord int, key uuid, provider text, model text, outcome text, request_id text, uncached bigint, cached bigint,
            write_5m bigint, write_1h bigint, visible bigint, reasoning bigint, cost numeric, saved numeric, price_input numeric,
            price_output numeric, price_read numeric, price_write numeric, price_source text, cache_tier text, latency float8,
            confirmed boolean
        )
        join jsonb_to_recordset(calls) q (
            ord int, call uuid, operation text, tenant text, agent text, labels jsonb, key_name text
        ) on q.ord = a.ord
        join unnest(s_ord, s_at) s (ord, at) on s.ord = a.ord
        on conflict (key, at) do nothing
        returning *
    )
    insert into usage_rollups as r (
        grain, tenant, bucket, provider, model, agent, operation, requests, failures, cache_hits, unpriced_requests, input_tokens,
        output_tokens, cached_input_tokens, reasoning_tokens, cost_usd, saved_usd, unconfirmed_usd
    )
    select g.grain, w.tenant, g.bucket, w.provider, w.model, coalesce(w.agent, ''), w.operation,
        count(*), count(*) filter (where w.outcome <> 'SUCCEEDED'), count(w.cache_tier),
        count(*) filter (where w.cost_usd is null and i.input + i.output > 0), sum(i.input), sum(i.output), sum(w.cached_input_tokens), sum(w.reasoning_tokens),
        coalesce(sum(w.cost_usd), 0), coalesce(sum(w.saved_usd), 0), coalesce(sum(w.cost_usd) filter (where not w.confirmed), 0)
    from written w
    cross join lateral (
        select w.uncached_input_tokens + w.cached_input_tokens + w.cache_write_5m_tokens + w.cache_write_1h_tokens as input,
            w.visible_output_tokens + w.reasoning_tokens as output
    ) i
    cross join lateral usage_buckets(w.at) g
    group by 1, 2, 3, 4, 5, 6, 7
    order by 1, 2, 3, 4, 5, 6, 7
    on conflict (grain, tenant, bucket, provider, model, agent, operation) do update set
        requests = r.requests + excluded.requests,
        failures = r.failures + excluded.failures,
        cache_hits = r.cache_hits + excluded.cache_hits,
        unpriced_requests = r.unpriced_requests + excluded.unpriced_requests,
        input_tokens = r.input_tokens + excluded.input_tokens,
        output_tokens = r.output_tokens + excluded.output_tokens,
        cached_input_tokens = r.cached_input_tokens + excluded.cached_input_tokens,
        reasoning_tokens = r.reasoning_tokens + excluded.reasoning_tokens,
        cost_usd = r.cost_usd + excluded.cost_usd,
        saved_usd = r.saved_usd + excluded.saved_usd,
        unconfirmed_usd = r.unconfirmed_usd + excluded.unconfirmed_usd;
end
$$;
--
-- Takes the estimates of a swept call out of the ledger, its roll-ups and the budgets that it counted for.
create function ledger_retract(swept uuid, admitted timestamptz) returns void
language plpgsql as $$
declare
    t_budget uuid[]; t_start timestamptz[]; t_end timestamptz[]; t_usd numeric[];
begin
    select array_agg(budget), array_agg(starts), array_agg(ends), array_agg(usd) into t_budget, t_start, t_end, t_usd
    from (
        select m.budget, p.starts, p.ends, sum(u.cost_usd) as usd
        from usage_records u
        cross join lateral budgets_for(u.tenant, u.agent, u.provider, u.model, u.labels) m
        cross join lateral periods_of(array[m.budget], array[u.at]) p
        where u.completion = swept and u.at = admitted and not u.confirmed and u.cost_usd is not null
        group by m.budget, p.starts, p.ends
    ) charged;
    if t_budget is not null then
        perform lock_periods(t_budget, t_start, t_end);
        update budget_periods p set spent_usd = p.spent_usd - t.usd
        from unnest(t_budget, t_start, t_usd) t (budget, starts, usd)
        where p.budget = t.budget and p.period_start = t.starts;
    end if;
    with removed as (
        delete from usage_records where completion = swept and at = admitted and not confirmed returning *
    ), summed as (
        select g.grain, w.tenant, g.bucket, w.provider, w.model, coalesce(w.agent, '') as agent, w.operation, count(*) as requests,
            count(*) filter (where w.outcome <> 'SUCCEEDED') as failures, count(*) filter (where w.cost_usd is null) as unpriced,
            sum(w.uncached_input_tokens) as input, sum(w.visible_output_tokens) as output, coalesce(sum(w.cost_usd), 0) as usd
        from removed w
        cross join lateral usage_buckets(w.at) g
        group by 1, 2, 3, 4, 5, 6, 7
    )
    update usage_rollups r set
        requests = r.requests - s.requests,
        failures = r.failures - s.failures,
        unpriced_requests = r.unpriced_requests - s.unpriced,
        input_tokens = r.input_tokens - s.input,
        output_tokens = r.output_tokens - s.output,
        cost_usd = r.cost_usd - s.usd,
        unconfirmed_usd = r.unconfirmed_usd - s.usd
    from summed s
    where (r.grain, r.tenant, r.bucket, r.provider, r.model, r.agent, r.operation)
        = (s.grain, s.tenant, s.bucket, s.provider, s.model, s.agent, s.operation);
end
$$;
--
-- Settles, at their estimates, calls whose owner stopped renewing them. Returns how many.
create function ledger_sweep(most int) returns int
language plpgsql as $$
declare
    calls jsonb;
    attempts jsonb;
begin
    perform pg_advisory_xact_lock_shared(7246001);
    with expired as (
        select * from completions where status = 'RUNNING' and lease_until < now() order by key limit most for update skip locked
    ), numbered as (
        select (row_number() over (order by key) - 1)::int as ord, * from expired
    )
    select
        jsonb_agg(jsonb_build_object(
            'ord', n.ord, 'call', n.key, 'owner', n.owner, 'at', n.admitted_at, 'tenant', n.tenant, 'agent', n.agent,
            'key_name', n.key_name, 'operation', n.operation, 'labels', n.labels, 'status', 'FAILED', 'swept', true
        )),
        jsonb_agg(e.rows)
    into calls, attempts
    from numbered n
    cross join lateral (
        select jsonb_agg(jsonb_build_object(
            'ord', n.ord, 'key', gen_random_uuid(), 'provider', x ->> 'provider', 'model', x ->> 'model', 'outcome', 'FAILED',
            'uncached', (x ->> 'input')::bigint, 'cached', 0, 'write_5m', 0, 'write_1h', 0, 'visible', (x ->> 'cap')::bigint,
            'reasoning', 0, 'cost', (x ->> 'usd')::numeric, 'latency', extract(epoch from now() - n.admitted_at) * 1000,
            'confirmed', false
        )) as rows
        from jsonb_array_elements(n.estimates) x
    ) e;
    if calls is null then
        return 0;
    end if;
    perform ledger_settle(calls, (select jsonb_agg(r) from jsonb_array_elements(attempts) a, jsonb_array_elements(a) r), '{}');
    return jsonb_array_length(calls);
end
$$;
