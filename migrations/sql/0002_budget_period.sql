-- The first instant that clocks in `zone` show as `local`: where an hour is repeated the earlier one, where it is skipped the one after.
create function local_instant(local timestamp, zone text) returns timestamptz
language sql immutable
return case
    when ((local at time zone zone) - interval '1 hour') at time zone zone = local then (local at time zone zone) - interval '1 hour'
    else local at time zone zone
end;
--
-- The half-open period of a budget that contains `moment`. TOTAL runs from the budget's creation and has no end. An hour is shorter where
-- the clocks change by half of one.
create function budget_period(period text, zone text, created timestamptz, moment timestamptz, out starts timestamptz, out ends timestamptz)
language plpgsql immutable as $$
declare
    local timestamp;
begin
    case period
        when 'TOTAL' then
            starts := created;
        when 'HOUR' then
            local := moment at time zone zone;
            starts := moment - (local - date_trunc('hour', local));
            local := starts at time zone zone;
            if local <> date_trunc('hour', local) then
                starts := starts + (date_trunc('hour', local) + interval '1 hour' - local);
                local := starts at time zone zone;
            end if;
            ends := starts + (date_trunc('hour', local) + interval '1 hour' - local);
        else
            local := date_trunc(period, moment at time zone zone);
            starts := local_instant(local, zone);
            ends := local_instant(local + ('1 ' || period)::interval, zone);
    end case;
end
$$;
--
-- Every budget that a call counts for. The empty text in a budget's scope matches all.
create function budgets_for(payer text, agent text, provider text, model text, labels jsonb)
returns table (budget uuid)
language sql stable
begin atomic
    select b.key
    from budgets b
    where b.deleted_at is null
        and b.tenant = any (array['', budgets_for.payer])
        and b.agent = any (array['', coalesce(budgets_for.agent, '')])
        and b.provider in ('', budgets_for.provider)
        and b.model in ('', budgets_for.model)
        and (b.label_key = '' or budgets_for.labels ->> b.label_key = b.label_value);
end;
--
-- What the ledger has for a budget's scope in [starts, ends): from the roll-ups, but from the records where a label decides.
create function budget_spend(b budgets, starts timestamptz, ends timestamptz) returns numeric
language plpgsql stable as $$
begin
    if b.label_key = '' and b.period <> 'TOTAL' then
        return (
            select coalesce(sum(u.cost_usd), 0) from usage_rollups u
            where u.grain = 15 and u.bucket >= starts and u.bucket < ends
                and (b.tenant = '' or u.tenant = b.tenant) and (b.agent = '' or u.agent = b.agent)
                and (b.provider = '' or u.provider = b.provider) and (b.model = '' or u.model = b.model)
        );
    end if;
    return (
        select coalesce(sum(u.cost_usd), 0) from usage_records u
        where u.at >= starts and u.at < coalesce(ends, 'infinity')
            and (b.tenant = '' or u.tenant = b.tenant) and (b.agent = '' or u.agent = b.agent)
            and (b.provider = '' or u.provider = b.provider) and (b.model = '' or u.model = b.model)
            and (b.label_key = '' or u.labels ->> b.label_key = b.label_value)
    );
end
$$;
--
-- Raises what is due for these periods and was not raised before: thresholds that the spending has reached and, for a refusal, 100.
create function raise_alerts(budgets_due uuid[], starts_due timestamptz[], refusal boolean) returns void
language plpgsql as $$
begin
    with due as (
        select b.key as budget, p.period_start, t.threshold, b.name, b.tenant, p.spent_usd, b.limit_usd
        from (select distinct * from unnest(budgets_due, starts_due)) d (budget, period_start)
        join budgets b on b.key = d.budget and b.deleted_at is null
        join budget_periods p on p.budget = d.budget and p.period_start = d.period_start
        cross join lateral unnest(b.thresholds) t (threshold)
        where ((refusal and t.threshold = 100) or (p.spent_usd > 0 and p.spent_usd * 100 >= b.limit_usd * t.threshold))
            and not exists (
                select from budget_alerts a
                where a.budget = d.budget and a.period_start = d.period_start and a.threshold = t.threshold
            )
        order by 1, 2, 3
    ), raised as (
        insert into budget_alerts (key, budget, period_start, threshold, budget_name, tenant, spent_usd, limit_usd)
        select gen_random_uuid(), budget, period_start, threshold, name, tenant, spent_usd, limit_usd from due
        on conflict (budget, period_start, threshold) do nothing
        returning key, tenant
    )
    insert into outbox (key, topic, tenant) select key, 'budget_alert', tenant from raised;
    if found then
        perform pg_notify('greenlang_outbox', '');
    end if;
end
$$;
--
-- Opens a new budget's running period with what the ledger already has. The caller holds the ledger's lock exclusively.
create function budget_open(opened uuid) returns void
language plpgsql as $$
begin
    insert into budget_periods (budget, period_start, period_end, spent_usd)
    select b.key, p.starts, p.ends, budget_spend(b, p.starts, p.ends)
    from budgets b
    cross join lateral budget_period(b.period, b.time_zone, b.created_at, now()) p
    where b.key = opened;
    perform raise_alerts(array[opened], (select array_agg(period_start) from budget_periods where budget = opened), false);
end
$$;
--
-- Locks budget periods in the one order that everybody keeps, and makes those that are missing. Each is named once.
create function lock_periods(budgets_touched uuid[], starts_touched timestamptz[], ends_touched timestamptz[]) returns void
language plpgsql as $$
declare
    locked bigint;
begin
    perform from budget_periods p
    where (p.budget, p.period_start) in (select * from unnest(budgets_touched, starts_touched))
    order by p.budget, p.period_start
    for update;
    get diagnostics locked = row_count;
    if locked < cardinality(budgets_touched) then
        insert into budget_periods (budget, period_start, period_end)
        select t.budget, t.starts, t.ends
        from unnest(budgets_touched, starts_touched, ends_touched) t (budget, starts, ends)
        where not exists (select from budget_periods p where p.budget = t.budget and p.period_start = t.starts)
        order by 1, 2
        on conflict do nothing;
        perform from budget_periods p
        where (p.budget, p.period_start) in (select * from unnest(budgets_touched, starts_touched))
        order by p.budget, p.period_start
        for update;
    end if;
end
$$;
--
-- A budget as it stands now, in its running period.
create view budget_now as
select b.*, p.starts as period_start, p.ends as period_end,
    coalesce(s.spent_usd, 0) as spent_usd, coalesce(s.held_usd, 0) as held_usd
from budgets b
cross join lateral budget_period(b.period, b.time_zone, b.created_at, now()) p
left join budget_periods s on s.budget = b.key and s.period_start = p.starts;
--
-- The roll-up rows that a moment counts in: its 15 minutes, its hour and its day, in UTC.
create function usage_buckets(moment timestamptz) returns table (grain smallint, bucket timestamptz)
language sql immutable
begin atomic
    select 15::smallint, date_bin(interval '15 minutes', usage_buckets.moment, timestamptz '2000-01-01 00:00:00Z')
    union all select 60::smallint, date_trunc('hour', usage_buckets.moment, 'UTC')
    union all select 1440::smallint, date_trunc('day', usage_buckets.moment, 'UTC');
end;
