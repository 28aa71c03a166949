-- Settles a batch: usage rows, the budgets' sums, roll-ups, alerts and the calls' ends, in one transaction. A call that was
-- settled before, or that the batch names twice, changes nothing. One without a status used nothing: it is released and forgotten. A call that was swept
-- meanwhile has its estimate taken out and the real figures put in, in the period of its admission.
-- `settling` is the process that owns the calls; null is the sweeper, who has locked them.
--
-- Rows are locked in one order everywhere: calls by key, budgets' periods, roll-ups. What budgets are charged and roll-ups count is
-- summed from the usage rows that were really written and removed, so it is theirs whatever comes twice.
-- Small batches look cheaper when they are planned anew each time; planning is most of their cost.
create function ledger_settle(
    settling uuid, keep interval, payers ledger_payer[], prices ledger_price[], calls ledger_call[], attempts ledger_attempt[], documents bytea[]
) returns void
language plpgsql set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    found_calls ledger_found[]; done boolean;
    h_budget uuid[]; h_start timestamptz[]; h_usd numeric[];
    sums ledger_sum[];
begin
    perform pg_advisory_xact_lock_shared(7246001);

    with locked as materialized (
        select key, owner, status, swept_at, admitted_at, hold_budgets, hold_starts, hold_usd
        from completions where key = any (array(select q.call from unnest(calls) q)) order by key for update
    ), resolved as materialized (
        select q.ord::int as ord, q.call, coalesce(q.at, c.admitted_at, now()) as at, q.payer, q.status, c.hold_budgets, c.hold_starts, c.hold_usd,
            case
                when row_number() over (partition by q.call order by q.status is null, q.ord) > 1 then 'done'
                when c.key is null and q.at is null and q.status is null then 'done'
                when c.key is null and q.at is null then 'new'
                when c.owner = coalesce(settling, c.owner) and c.status = 'RUNNING' then 'open'
                when c.owner = settling and c.swept_at is null then 'done'
                when exists (
                    select from unnest(attempts) a join usage_records u on u.key = a.key and u.at = q.at where a.call = q.ord
                ) then 'done'
                when c.key is null then 'new'
                else 'late'
            end as state
        from unnest(calls) with ordinality q (call, at, payer, status, ord)
        left join locked c on c.key = q.call
    )
    select s.calls, s.done, h.budgets, h.starts, h.usd into found_calls, done, h_budget, h_start, h_usd
    from (
        select array_agg(row(ord, call, at, payer, status, state)::ledger_found order by ord) as calls, bool_and(state = 'done') as done
        from resolved
    ) s
    cross join (
        select array_agg(budget) as budgets, array_agg(starts) as starts, array_agg(usd) as usd
        from (
            select h.budget, h.starts, sum(h.usd) as usd
            from resolved o cross join lateral unnest(o.hold_budgets, o.hold_starts, o.hold_usd) h (budget, starts, usd)
            where o.state = 'open'
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
    perform close_calls(settling, keep, payers, found_calls, documents);
end
$$;
--
-- Writes usage rows and sums those that are really new.
create function write_usage(payers ledger_payer[], prices ledger_price[], found_calls ledger_found[], attempts ledger_attempt[], out sums ledger_sum[])
language plpgsql as $$
begin
    with written as (
        insert into usage_records (
            key, at, completion, operation, tenant, agent, labels, key_name, provider, model, outcome, provider_request_id,
            uncached_input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, visible_output_tokens,
            reasoning_tokens, cost_usd, saved_usd, price_input_usd, price_output_usd, price_cache_read_usd, price_cache_write_usd,
            price_source, cache_tier, latency_ms, confirmed
        )
        select a.key, f.at, f.call, y.operation, y.tenant, y.agent, y.labels, y.key_name, p.provider, p.model, a.outcome, a.request_id,
            a.uncached, a.cached, a.write_5m, a.write_1h, a.visible, a.reasoning, a.cost, a.saved, p.input_usd, p.output_usd,
            p.cache_read_usd, p.cache_write_usd, p.source, a.cache_tier, a.latency, a.confirmed
        from unnest(attempts) a
        join unnest(found_calls) f on f.ord = a.call and f.state <> 'done'
        join unnest(payers) with ordinality y (tenant, agent, key_name, operation, labels, place) on y.place = f.payer
        join unnest(prices) with ordinality p (provider, model, input_usd, output_usd, cache_read_usd, cache_write_usd, source, place)
            on p.place = a.price
        on conflict (key, at) do nothing
        returning *
    ), summed as (
        select w.tenant, w.at, w.provider, w.model, coalesce(w.agent, ''), w.operation, w.labels, count(*), count(*) filter (where w.outcome <> 'SUCCEEDED'),
            count(w.cache_tier), count(*) filter (where w.cost_usd is null and t.input + t.output > 0), sum(t.input), sum(t.output),
            sum(w.cached_input_tokens), sum(w.reasoning_tokens), coalesce(sum(w.cost_usd), 0), coalesce(sum(w.saved_usd), 0),
            coalesce(sum(w.cost_usd) filter (where not w.confirmed), 0)
        from written w
        cross join lateral (
            select w.uncached_input_tokens + w.cached_input_tokens + w.cache_write_5m_tokens + w.cache_write_1h_tokens as input,
                w.visible_output_tokens + w.reasoning_tokens as output
        ) t
        group by 1, 2, 3, 4, 5, 6, 7
    )
    select array_agg(row(s.*)::ledger_sum) into sums from summed s;
end
$$;
--
-- Takes the estimates of swept calls out again, and sums them.
create function remove_estimates(found_calls ledger_found[], out sums ledger_sum[])
language plpgsql as $$
begin
    with removed as (
        delete from usage_records u using unnest(found_calls) f
        where f.state = 'late' and u.completion = f.call and u.at = f.at and not u.confirmed
        returning u.*
    ), summed as (
        select tenant, at, provider, model, coalesce(agent, ''), operation, labels, -count(*), -count(*) filter (where outcome <> 'SUCCEEDED'),
            0, -count(*) filter (where cost_usd is null), -sum(uncached_input_tokens), -sum(visible_output_tokens), 0, 0,
            -coalesce(sum(cost_usd), 0), 0, -coalesce(sum(cost_usd), 0)
        from removed
        group by 1, 2, 3, 4, 5, 6, 7
    )
    select array_agg(row(s.*)::ledger_sum) into sums from summed s;
end
$$;
--
-- Charges sums to every budget that matches them now, and gives back what was held.
create function charge_budgets(sums ledger_sum[], h_budget uuid[], h_start timestamptz[], h_usd numeric[]) returns void
language plpgsql as $$
#variable_conflict use_column
declare
    t_budget uuid[]; t_start timestamptz[]; t_end timestamptz[]; t_spent numeric[]; t_held numeric[];
    due boolean;
begin
    select array_agg(budget), array_agg(starts), array_agg(ends), array_agg(spent), array_agg(held)
    into t_budget, t_start, t_end, t_spent, t_held
    from (
        select budget, starts, max(ends) as ends, sum(spent) as spent, sum(held) as held
        from (
            select m.budget, p.starts, p.ends, m.spent, 0 as held
            from (
                select m.budget, s.at, sum(s.cost_usd) as spent
                from (
                    select s.tenant, s.agent, s.provider, s.model, s.labels, s.at, sum(s.cost_usd) as cost_usd
                    from unnest(sums) s where s.cost_usd <> 0 group by 1, 2, 3, 4, 5, 6
                ) s
                cross join lateral budgets_for(s.tenant, s.agent, s.provider, s.model, s.labels) m
                group by m.budget, s.at
            ) m
            join budgets b on b.key = m.budget and (b.period <> 'TOTAL' or b.created_at <= m.at)
            cross join lateral budget_period(b.period, b.time_zone, b.created_at, m.at) p
            union all
            select h.budget, h.starts, null, 0, h.usd from unnest(h_budget, h_start, h_usd) h (budget, starts, usd)
        ) touched
        group by budget, starts
    ) summed;
    if t_budget is null then
        return;
    end if;
    perform lock_periods(t_budget, t_start, t_end);
    with changed as (
        update budget_periods p set spent_usd = p.spent_usd + t.spent, held_usd = p.held_usd - t.held
        from unnest(t_budget, t_start, t_spent, t_held) t (budget, starts, spent, held)
        where p.budget = t.budget and p.period_start = t.starts
        returning p.budget, p.spent_usd, t.spent
    )
    select bool_or(c.spent > 0 and c.spent_usd * 100 >= b.limit_usd * b.thresholds[1]) into due
    from changed c join budgets b on b.key = c.budget;
    if due then
        perform raise_alerts(t_budget, t_start, false);
    end if;
end
$$;
--
-- Adds sums to the roll-ups of 15 minutes, hours and UTC days.
create function write_rollups(sums ledger_sum[]) returns void
language plpgsql as $$
begin
    insert into usage_rollups as r (
        grain, tenant, bucket, provider, model, agent, operation, requests, failures, cache_hits, unpriced_requests, input_tokens,
        output_tokens, cached_input_tokens, reasoning_tokens, cost_usd, saved_usd, unconfirmed_usd
    )
    select g.grain, s.tenant, g.bucket, s.provider, s.model, s.agent, s.operation, sum(s.requests), sum(s.failures), sum(s.cache_hits),
        sum(s.unpriced_requests), sum(s.input_tokens), sum(s.output_tokens), sum(s.cached_input_tokens), sum(s.reasoning_tokens),
        sum(s.cost_usd), sum(s.saved_usd), sum(s.unconfirmed_usd)
    from unnest(sums) s
    cross join lateral usage_buckets(s.at) g
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
-- The ends of settled calls. A late one ends its row only if no other run of the call has taken it over.
create function close_calls(settling uuid, keep interval, payers ledger_payer[], found_calls ledger_found[], documents bytea[]) returns void
language plpgsql as $$
begin
    update completions c
    set status = f.status, document = f.document, finished_at = now(), lease_until = null, hold_budgets = '{}', hold_starts = '{}',
        hold_usd = '{}', swept_at = case when settling is null then now() end
    from unnest(found_calls, documents) f (ord, call, at, payer, status, state, document)
    where c.key = f.call and (settling is null or c.owner = settling) and f.status is not null and f.state in ('open', 'late');
    if exists (select from unnest(found_calls) f where f.status is null and f.state <> 'done') then
        delete from completions c using unnest(found_calls) f where c.key = f.call and c.owner = settling and f.status is null and f.state <> 'done';
    end if;
    if exists (select from unnest(found_calls) f where f.state = 'new' and f.status is not null) then
        insert into completions (
            key, tenant, agent, key_name, operation, labels, owner, status, estimates, admitted_at, finished_at, expires_at, document
        )
        select f.call, y.tenant, y.agent, y.key_name, y.operation, y.labels, settling, f.status, '[]', f.at, now(), now() + keep, f.document
        from unnest(found_calls, documents) f (ord, call, at, payer, status, state, document)
        join unnest(payers) with ordinality y (tenant, agent, key_name, operation, labels, place) on y.place = f.payer
        where f.state = 'new' and f.status is not null
        order by f.call
        on conflict (key) do nothing;
    end if;
end
$$;
--
-- Settles, at their estimates, calls whose owner stopped renewing them. Returns how many.
create function ledger_sweep(most int) returns int
language plpgsql as $$
declare
    payers ledger_payer[];
    prices ledger_price[];
    calls ledger_call[];
    attempts ledger_attempt[];
begin
    perform pg_advisory_xact_lock_shared(7246001);
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
