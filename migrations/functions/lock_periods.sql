-- Locks budget periods, and makes those that are missing. Each is named once.
--
-- Every transaction that changes sums of periods locks them here, by budget and start, so that no two of them wait for each other
-- (deadlock). It holds the ledger's lock and its calls already. A period that another transaction makes meanwhile is waited for, then
-- locked too.
create or replace function lock_periods(budgets_touched uuid[], starts_touched timestamptz[], ends_touched timestamptz[]) returns void
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
