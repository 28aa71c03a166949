-- Takes the estimates of swept calls out again, and sums them with negative figures. The caller has locked the calls, so no other
-- transaction removes the same rows.
create or replace function remove_estimates(found_calls ledger_found[], out sums ledger_sum[])
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
