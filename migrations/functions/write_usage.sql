-- Writes usage rows and sums those that are really new. Locks nothing that another transaction could wait for: a row that two transactions
-- write is written by one of them, and the other counts nothing for it.
create or replace function write_usage(payers ledger_payer[], prices ledger_price[], found_calls ledger_found[], attempts ledger_attempt[], out sums ledger_sum[])
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
