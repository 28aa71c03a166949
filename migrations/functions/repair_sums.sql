-- Sets a budget period's sums to those of its rows. The spent amount is only raised, because an old record can be missing.
--
-- Locks the ledger shared, then the period: the rows are counted while no other transaction can change the period's sums.
create or replace function repair_sums(wrong uuid, starts timestamptz) returns void
language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(ledger_lock());
    perform from budget_periods where budget = wrong and period_start = starts for update;
    update budget_periods p set held_usd = d.holding_usd, spent_usd = greatest(d.spent_usd, d.recorded_usd)
    from budget_discrepancies d
    where d.budget = wrong and d.period_start = starts and p.budget = d.budget and p.period_start = d.period_start;
    perform raise_alerts(array[wrong], array[starts], false);
end
$$;
