-- The periods of budgets at moments, each pair once. A TOTAL budget has none before its creation. Locks nothing.
create or replace function periods_of(budgets_wanted uuid[], moments timestamptz[])
returns table (budget uuid, at timestamptz, starts timestamptz, ends timestamptz)
language sql stable
begin atomic
    select d.budget, d.at, p.starts, p.ends
    from (select distinct * from unnest(periods_of.budgets_wanted, periods_of.moments) u (budget, at)) d
    join budgets b on b.key = d.budget
    cross join lateral budget_period(b.period, b.time_zone, b.created_at, d.at) p
    where b.period <> 'TOTAL' or b.created_at <= d.at;
end;
