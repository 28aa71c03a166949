-- Every function and view of the versions before, in whatever form: those that go on are made from their files after the last migration.
-- The ledger's keep their names, arguments and types, so a process that runs meanwhile settles its open calls.
drop view if exists budget_discrepancies, budget_now;
--
do $$
declare
    former text;
begin
    select string_agg(oid::regprocedure::text, ', ') into former
    from pg_proc
    where pronamespace = current_schema()::regnamespace and proname = any (array[
        'local_instant', 'budget_period', 'budgets_for', 'budget_spend', 'raise_alerts', 'budget_open', 'lock_periods', 'usage_buckets',
        'ledger_admit', 'write_admissions', 'periods_of', 'materialise_defaults', 'ledger_settle', 'write_usage', 'remove_estimates',
        'charge_budgets', 'write_rollups', 'close_calls', 'ledger_sweep', 'make_usage_partition', 'put_period_right', 'spending_by_day',
        'outbox_place', 'outbox_forget', 'webhook_take', 'provider_changed', 'share_stream_keys'
    ]);
    if former is not null then
        execute 'drop function ' || former;
    end if;
end
$$;
--
alter table upkeep rename to maintenance;
--
alter index pk_upkeep rename to pk_maintenance;
--
alter table outbox rename column placed_at to sequenced_at;
--
alter index ix_outbox_unplaced rename to ix_outbox_unsequenced;
--
alter table event_log rename column gone to last_deleted;
--
-- A request of a batch that was admitted, by its place `ord`: its cap of output tokens, whether the budgets made it smaller, and the worst
-- case in US dollars, null without a price. `kind` is 'new', 'topup' (a further attempt of an open call) or 'again' (a call that was swept
-- and is asked for once more).
create type ledger_admitted as (ord int, call uuid, cap int, capped boolean, usd numeric, kind text);
--
-- What the admitted request `ord` holds of a budget's period.
create type ledger_hold as (ord int, budget uuid, starts timestamptz, usd numeric);
