-- Makes the partition of the month that contains `moment`, with the rows that wait in the default one. True where it was missing.
create function make_usage_partition(moment timestamptz) returns boolean
language plpgsql as $$
declare
    starts timestamptz := date_trunc('month', moment, 'UTC');
    ends timestamptz := (date_trunc('month', moment at time zone 'UTC') + interval '1 month') at time zone 'UTC';
    part text := 'usage_records_' || to_char(moment at time zone 'UTC', 'YYYY_MM');
begin
    if to_regclass('partitions.' || part) is not null then
        return false;
    end if;
    lock table usage_records in share row exclusive mode;
    if to_regclass('partitions.' || part) is not null then
        return false;
    end if;
    execute format('create table partitions.%I (like usage_records including defaults including constraints including indexes)', part);
    execute format(
        'with moved as (delete from partitions.usage_records_rest where at >= %L and at < %L returning *) '
        'insert into partitions.%I select * from moved', starts, ends, part
    );
    execute format('alter table usage_records attach partition partitions.%I for values from (%L) to (%L)', part, starts, ends);
    return true;
end
$$;
--
-- Where a budget's running sums and the rows behind them differ: nothing, unless something is wrong.
create view budget_discrepancies as
select p.budget, p.period_start, p.spent_usd, recorded.usd as recorded_usd, p.held_usd, holding.usd as holding_usd
from budget_periods p
join budget_now b on b.key = p.budget and b.period_start = p.period_start and b.deleted_at is null
cross join lateral (
    select coalesce(sum(u.cost_usd), 0) as usd
    from usage_records u
    where u.at >= p.period_start and u.at < coalesce(p.period_end, 'infinity')
        and (b.tenant = '' or u.tenant = b.tenant) and (b.agent = '' or u.agent = b.agent)
        and (b.provider = '' or u.provider = b.provider) and (b.model = '' or u.model = b.model)
        and (b.label_key = '' or u.labels ->> b.label_key = b.label_value)
) recorded
cross join lateral (
    select coalesce(sum(h.usd), 0) as usd
    from completions c
    cross join lateral unnest(c.hold_budgets, c.hold_starts, c.hold_usd) h (budget, starts, usd)
    where c.status = 'RUNNING' and h.budget = p.budget and h.starts = p.period_start
) holding
where p.spent_usd <> recorded.usd or p.held_usd <> holding.usd;
