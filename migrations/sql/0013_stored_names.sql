-- Every function and view of the versions before, in whatever form: those that go on are made from their files after the last migration.
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
drop type if exists
    ledger_payer, ledger_target, ledger_request, ledger_price, ledger_call, ledger_attempt, ledger_found, ledger_sum;
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
-- The rows of a batch of the ledger. What most calls share is sent once: payers, targets, prices and calls are named by their place in
-- their list, from 1.
--
-- Who pays: the labels are the call's own.
create type ledger_payer as (tenant text, agent text, key_name text, operation text, labels jsonb);
--
create type ledger_target as (provider text, model text);
--
-- A call to be admitted: `input_usd` is the price of its input and `token_usd` that of one token of output, null if the target has no price;
-- it may get between `min_out` and `max_out` tokens; `idem` is its idempotency key and `hash` that of its input. A request with `at`, the
-- moment of its admission, is a further attempt of a call that is open.
create type ledger_request as (
    call uuid, payer int, target int, input_tokens int, max_out int, min_out int, input_usd numeric, token_usd numeric, idem text, hash bytea,
    at timestamptz
);
--
-- A request that was admitted, by its place `ord`: its cap of output tokens, whether the budgets made it smaller, and the worst case in US
-- dollars, null without a price. `kind` is 'new', 'topup' (a further attempt) or 'again' (a call that was swept and is asked for once more).
create type ledger_admitted as (ord int, call uuid, cap int, capped boolean, usd numeric, kind text);
--
-- What the admitted request `ord` holds of a budget's period.
create type ledger_hold as (ord int, budget uuid, starts timestamptz, usd numeric);
--
create type ledger_price as (
    provider text, model text, input_usd numeric, output_usd numeric, cache_read_usd numeric, cache_write_usd numeric, source text
);
--
-- A call to be settled: `at` is its admission, null if the process did not admit it; `status` is null to release it.
create type ledger_call as (call uuid, at timestamptz, payer int, status text);
--
create type ledger_attempt as (
    call int, price int, key uuid, outcome text, request_id text, uncached bigint, cached bigint, write_5m bigint, write_1h bigint,
    visible bigint, reasoning bigint, cost numeric, saved numeric, cache_tier text, latency double precision, confirmed boolean
);
--
-- A call of a batch as the ledger found it: 'open', 'new' to it, 'late' after it was swept, or 'done' before. `place` is where its row lies.
create type ledger_found as (ord int, call uuid, at timestamptz, payer int, status text, state text, place tid);
--
-- What was written, or with negative figures removed, of one moment, scope and set of labels.
create type ledger_sum as (
    tenant text, at timestamptz, provider text, model text, agent text, operation text, labels jsonb, requests bigint, failures bigint,
    cache_hits bigint, unpriced_requests bigint, input_tokens bigint, output_tokens bigint, cached_input_tokens bigint,
    reasoning_tokens bigint, cost_usd numeric, saved_usd numeric, unconfirmed_usd numeric
);
