-- When each maintenance task last began, in any process.
create table upkeep (
    task text not null,
    begun_at timestamptz not null default '-infinity',
    constraint pk_upkeep primary key (task)
);
--
insert into upkeep (task) values ('tidy'), ('reconcile');
--
-- Where a budget's running sums and the rows behind them differ: nothing, unless something is wrong.
create view budget_discrepancies as
select p.budget, p.period_start, p.spent_usd, recorded.usd as recorded_usd, p.held_usd, coalesce(holding.usd, 0) as holding_usd
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
left join (
    select h.budget, h.starts, sum(h.usd) as usd
    from completions c
    cross join lateral unnest(c.hold_budgets, c.hold_starts, c.hold_usd) h (budget, starts, usd)
    where c.status = 'RUNNING'
    group by h.budget, h.starts
) holding on holding.budget = p.budget and holding.starts = p.period_start
where p.spent_usd <> recorded.usd or p.held_usd <> coalesce(holding.usd, 0);
--
-- Makes a period's sums those of its rows, counted under its lock. What is spent is only raised: a record can be missing because it is old.
create function put_period_right(wrong uuid, starts timestamptz) returns void
language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(7246001);
    perform from budget_periods where budget = wrong and period_start = starts for update;
    update budget_periods p set held_usd = d.holding_usd, spent_usd = greatest(d.spent_usd, d.recorded_usd)
    from budget_discrepancies d
    where d.budget = wrong and d.period_start = starts and p.budget = d.budget and p.period_start = d.period_start;
    perform raise_alerts(array[wrong], array[starts], false);
end
$$;
