-- A budget as it stands now, in its running period.
create or replace view budget_now as
select b.key, b.tenant, b.agent, b.provider, b.model, b.label_key, b.label_value, b.name, b.limit_usd, b.period, b.time_zone, b.thresholds,
    b.enforcement, b.origin, b.version, b.created_at, b.deleted_at, p.starts as period_start, p.ends as period_end,
    coalesce(s.spent_usd, 0) as spent_usd, coalesce(s.held_usd, 0) as held_usd, b.owner
from budgets b
cross join lateral budget_period(b.period, b.time_zone, b.created_at, now()) p
left join budget_periods s on s.budget = b.key and s.period_start = p.starts;
