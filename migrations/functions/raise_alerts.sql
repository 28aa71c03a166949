-- Raises what is due for these periods and was not raised before: thresholds that the spending has reached and, for a refusal, 100.
--
-- The caller has locked the periods, so their sums stand still. Alerts are inserted by budget, period and threshold: the unique constraint
-- decides between transactions that raise the same one, and each raises its event exactly once, with the spending that crossed it.
create or replace function raise_alerts(budgets_due uuid[], starts_due timestamptz[], refusal boolean) returns void
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
