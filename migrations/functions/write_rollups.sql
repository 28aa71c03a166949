-- Adds sums to the roll-ups of 15 minutes, hours and UTC days.
--
-- Locks the rows that it changes in the order of their key. They are the last locks of a settlement, after calls and periods, and many
-- settlements share them.
create or replace function write_rollups(sums ledger_sum[]) returns void
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
