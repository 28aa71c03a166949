-- Opens a new budget's running period with what the ledger already has.
--
-- The caller holds the ledger's lock exclusively: no settlement can come between the sums that are read here and their first change.
-- Locks nothing else: the period is new, so no other transaction can wait for it.
create or replace function budget_open(opened uuid) returns void
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
