-- The budgets whose running sums differ from their rows. There are none unless something is wrong.
create or replace view budget_discrepancies as
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
