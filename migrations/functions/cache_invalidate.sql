-- Records what a tenant has invalidated and publishes it, both in one transaction; returns when, by the database's clock. A tenant with
-- more than max_kept of them gets its older half as one of everything: that covers more than was asked for, never less.
--
-- Locks the tenant's own rows.
create or replace function cache_invalidate(of_tenant text, of_kind text, of_values text[], max_kept int) returns timestamptz
language plpgsql as $$
declare
    invalidated_at timestamptz := clock_timestamp();
    covered_until timestamptz;
begin
    insert into cache_invalidations as i (tenant, kind, value, at)
    select of_tenant, of_kind, v, invalidated_at from (select distinct unnest(of_values) as v order by 1) as given
    on conflict (tenant, kind, value) do update set at = greatest(i.at, excluded.at);
    if (select count(*) from cache_invalidations where tenant = of_tenant) > max_kept then
        select percentile_disc(0.5) within group (order by at) into covered_until from cache_invalidations where tenant = of_tenant;
        delete from cache_invalidations where tenant = of_tenant and kind <> 'everything' and at <= covered_until;
        insert into cache_invalidations as i (tenant, kind, value, at) values (of_tenant, 'everything', '', covered_until)
        on conflict (tenant, kind, value) do update set at = greatest(i.at, excluded.at);
    end if;
    insert into outbox (key, topic, tenant, payload) values (
        gen_random_uuid(), 'cache', of_tenant,
        jsonb_build_object('tenant', of_tenant, 'kind', of_kind, 'values', of_values, 'at', invalidated_at)
    );
    perform pg_notify('greenlang_outbox', '');
    return invalidated_at;
end
$$;
