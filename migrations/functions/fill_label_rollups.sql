-- Makes the label roll-ups of the whole quarters in [starts, ends) agree with the usage records, of one tenant, or of all if it is null.
-- Counts the records again and adds the difference to quarters, hours and days, so it may be repeated.
--
-- Locks the rows that it changes. The caller has locked `label_rollups_filled`, so no other transaction fills.
create or replace function fill_label_rollups(starts timestamptz, ends timestamptz, of_tenant text) returns void
language plpgsql as $$
begin
    with counted as (
        select u.tenant, l.key as label_key, date_bin(interval '15 minutes', u.at, timestamptz '2000-01-01 00:00:00Z') as bucket,
            l.value as label_value, u.provider, u.model, coalesce(u.agent, '') as agent, u.operation, count(*) as requests,
            count(*) filter (where u.outcome <> 'SUCCEEDED') as failures, count(u.cache_tier) as cache_hits,
            count(*) filter (where u.cost_usd is null and t.input + t.output > 0) as unpriced_requests,
            sum(t.input) as input_tokens, sum(t.output) as output_tokens, sum(u.cached_input_tokens) as cached_input_tokens,
            sum(u.reasoning_tokens) as reasoning_tokens, coalesce(sum(u.cost_usd), 0) as cost_usd,
            coalesce(sum(u.saved_usd), 0) as saved_usd, coalesce(sum(u.cost_usd) filter (where not u.confirmed), 0) as unconfirmed_usd
        from usage_records u
        cross join lateral jsonb_each_text(u.labels) l
        cross join lateral (
            select u.uncached_input_tokens + u.cached_input_tokens + u.cache_write_5m_tokens + u.cache_write_1h_tokens as input,
                u.visible_output_tokens + u.reasoning_tokens as output
        ) t
        where u.at >= starts and u.at < ends and (of_tenant is null or u.tenant = of_tenant) and u.labels <> '{}'
        group by 1, 2, 3, 4, 5, 6, 7, 8
    ), signed as (
        select * from counted
        union all
        select r.tenant, r.label_key, r.bucket, r.label_value, r.provider, r.model, r.agent, r.operation, -r.requests, -r.failures,
            -r.cache_hits, -r.unpriced_requests, -r.input_tokens, -r.output_tokens, -r.cached_input_tokens, -r.reasoning_tokens,
            -r.cost_usd, -r.saved_usd, -r.unconfirmed_usd
        from label_rollups r
        where r.grain = 15 and r.bucket >= starts and r.bucket < ends and (of_tenant is null or r.tenant = of_tenant)
    ), changed as (
        select s.tenant, s.label_key, s.bucket, md5(row(s.label_value, s.provider, s.model, s.agent, s.operation)::text)::uuid as place,
            s.label_value, s.provider, s.model, s.agent, s.operation, sum(s.requests) as requests, sum(s.failures) as failures,
            sum(s.cache_hits) as cache_hits, sum(s.unpriced_requests) as unpriced_requests, sum(s.input_tokens) as input_tokens,
            sum(s.output_tokens) as output_tokens, sum(s.cached_input_tokens) as cached_input_tokens,
            sum(s.reasoning_tokens) as reasoning_tokens, sum(s.cost_usd) as cost_usd, sum(s.saved_usd) as saved_usd,
            sum(s.unconfirmed_usd) as unconfirmed_usd
        from signed s
        group by 1, 2, 3, 4, 5, 6, 7, 8, 9
    )
    insert into label_rollups as r (
        grain, tenant, label_key, bucket, place, label_value, provider, model, agent, operation, requests, failures, cache_hits,
        unpriced_requests, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens, cost_usd, saved_usd, unconfirmed_usd
    )
    select g.grain, c.tenant, c.label_key, g.bucket, c.place, c.label_value, c.provider, c.model, c.agent, c.operation, sum(c.requests),
        sum(c.failures), sum(c.cache_hits), sum(c.unpriced_requests), sum(c.input_tokens), sum(c.output_tokens),
        sum(c.cached_input_tokens), sum(c.reasoning_tokens), sum(c.cost_usd), sum(c.saved_usd), sum(c.unconfirmed_usd)
    from changed c
    cross join lateral usage_buckets(c.bucket) g
    where (
        c.requests, c.failures, c.cache_hits, c.unpriced_requests, c.input_tokens, c.output_tokens, c.cached_input_tokens,
        c.reasoning_tokens, c.cost_usd, c.saved_usd, c.unconfirmed_usd
    ) is distinct from (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
    on conflict (grain, tenant, label_key, bucket, place) do update set
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
