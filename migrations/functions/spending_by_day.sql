-- What was spent by local day, for several series at once: each is an object with a filter (null matches all), a zone, the start of its
-- history and the grain of roll-ups that is exact in its zone. `later` is the part that came after the time of day of `moment`. Series of
-- the same tenants share one read of the roll-ups; only a label needs the records. Locks nothing.
create or replace function spending_by_day(wanted jsonb, moment timestamptz)
returns table (series int, day date, usd numeric, later numeric)
language sql stable
begin atomic
    with asked as (
        select *
        from jsonb_to_recordset(spending_by_day.wanted) w (
            series int, starts timestamptz, zone text, grain smallint, tenants text[], providers text[], models text[], agents text[],
            operations text[], labels jsonb
        )
    ), scopes as (
        select distinct tenants, zone, grain, starts from asked where labels = '{}'
    ), buckets as (
        select s.tenants, s.zone, s.grain, r.bucket, r.provider, r.model, r.agent, r.operation, r.cost_usd
        from scopes s
        join usage_rollups r on r.grain = s.grain and r.tenant = any (s.tenants) and r.bucket >= s.starts and r.bucket <= spending_by_day.moment
        union all
        select s.tenants, s.zone, s.grain, r.bucket, r.provider, r.model, r.agent, r.operation, r.cost_usd
        from scopes s
        join usage_rollups r on s.tenants is null and r.grain = s.grain and r.bucket >= s.starts and r.bucket <= spending_by_day.moment
    ), history as materialized (
        select b.tenants, b.zone, l.day, b.provider, b.model, b.agent, b.operation, sum(b.cost_usd) as usd, sum(b.cost_usd * l.later) as later
        from buckets b
        cross join lateral (
            select (b.bucket at time zone b.zone)::date as day,
                least(1, greatest(0, 1 - extract(epoch from
                    (spending_by_day.moment at time zone b.zone)::time - (b.bucket at time zone b.zone)::time) / (b.grain * 60))) as later
        ) l
        group by 1, 2, 3, 4, 5, 6, 7
    )
    select a.series, h.day, sum(h.usd), sum(h.later)
    from asked a
    join history h on h.tenants is not distinct from a.tenants and h.zone = a.zone
        and (a.providers is null or h.provider = any (a.providers)) and (a.models is null or h.model = any (a.models))
        and (a.agents is null or h.agent = any (a.agents)) and (a.operations is null or h.operation = any (a.operations))
    where a.labels = '{}'
    group by 1, 2
    union all
    select a.series, (u.at at time zone a.zone)::date, sum(u.cost_usd),
        coalesce(sum(u.cost_usd) filter (where (u.at at time zone a.zone)::time > (spending_by_day.moment at time zone a.zone)::time), 0)
    from asked a
    join usage_records u on (a.tenants is null or u.tenant = any (a.tenants)) and u.at >= a.starts and u.at <= spending_by_day.moment
        and (a.providers is null or u.provider = any (a.providers)) and (a.models is null or u.model = any (a.models))
        and (a.agents is null or u.agent = any (a.agents)) and (a.operations is null or u.operation = any (a.operations))
        and u.labels @> a.labels
    where a.labels <> '{}' and u.cost_usd is not null
    group by 1, 2;
end;
