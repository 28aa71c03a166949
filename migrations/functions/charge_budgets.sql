-- Charges sums to every budget that matches them now, and gives back what was held. `h_…` have one entry for each hold: budget, start of
-- its period, amount.
--
-- Locks the periods by `lock_periods`; the caller holds the ledger's lock and the calls. `t_…` are the periods that it changes, each once.
create or replace function charge_budgets(sums ledger_sum[], h_budget uuid[], h_start timestamptz[], h_usd numeric[]) returns void
language plpgsql as $$
#variable_conflict use_column
declare
    t_budget uuid[]; t_start timestamptz[]; t_end timestamptz[]; t_spent numeric[]; t_held numeric[];
    due boolean;
begin
    select array_agg(budget), array_agg(starts), array_agg(ends), array_agg(spent), array_agg(held)
    into t_budget, t_start, t_end, t_spent, t_held
    from (
        select budget, starts, max(ends) as ends, sum(spent) as spent, sum(held) as held
        from (
            select m.budget, p.starts, p.ends, m.spent, 0 as held
            from (
                select m.budget, s.at, sum(s.cost_usd) as spent
                from (
                    select s.tenant, s.agent, s.provider, s.model, s.labels, s.at, sum(s.cost_usd) as cost_usd
                    from unnest(sums) s where s.cost_usd <> 0 group by 1, 2, 3, 4, 5, 6
                ) s
                cross join lateral budgets_for(s.tenant, s.agent, s.provider, s.model, s.labels) m
                group by m.budget, s.at
            ) m
            join budgets b on b.key = m.budget and (b.period <> 'TOTAL' or b.created_at <= m.at)
            cross join lateral budget_period(b.period, b.time_zone, b.created_at, m.at) p
            union all
            select h.budget, h.starts, null, 0, h.usd from unnest(h_budget, h_start, h_usd) h (budget, starts, usd)
        ) touched
        group by budget, starts
    ) summed;
    if t_budget is null then
        return;
    end if;
    perform lock_periods(t_budget, t_start, t_end);
    with changed as (
        update budget_periods p set spent_usd = p.spent_usd + t.spent, held_usd = p.held_usd - t.held
        from unnest(t_budget, t_start, t_spent, t_held) t (budget, starts, spent, held)
        where p.budget = t.budget and p.period_start = t.starts
        returning p.budget, p.spent_usd, t.spent
    )
    select bool_or(c.spent > 0 and c.spent_usd * 100 >= b.limit_usd * b.thresholds[1]) into due
    from changed c join budgets b on b.key = c.budget;
    if due then
        perform raise_alerts(t_budget, t_start, false);
    end if;
end
$$;
