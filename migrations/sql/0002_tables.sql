-- A call from its admission on. The three hold columns say in parallel what it holds of which budget's period; `estimates` lists the worst case of every
-- attempt that was held for, so that the call of a dead owner can be settled; `document` is the finished completion, sealed.
create table completions (
    key uuid not null,
    tenant text not null,
    agent text,
    key_name text not null,
    operation text not null,
    labels jsonb not null,
    idempotency_key text,
    request_hash bytea,
    owner uuid not null,
    lease_until timestamptz,
    status text not null,
    swept_at timestamptz,
    estimates jsonb not null,
    hold_budgets uuid[] not null default '{}',
    hold_starts timestamptz[] not null default '{}',
    hold_usd numeric[] not null default '{}',
    output_cap integer,
    capped boolean not null default false,
    admitted_at timestamptz not null,
    finished_at timestamptz,
    expires_at timestamptz not null,
    document bytea,
    constraint pk_completions primary key (key),
    constraint ck_completions_status check (status in ('RUNNING', 'FINISHED', 'FAILED', 'CANCELLED'))
);
--
create unique index uq_completions_idempotency on completions (tenant, operation, idempotency_key) where idempotency_key is not null;
--
create index ix_completions_lease_until on completions (lease_until) where status = 'RUNNING';
--
create index ix_completions_expires_at on completions (expires_at);
--
-- The empty text in a scope means all. `origin` is 'default' for a budget that the configuration gave.
create table budgets (
    key uuid not null,
    tenant text not null default '',
    agent text not null default '',
    provider text not null default '',
    model text not null default '',
    label_key text not null default '',
    label_value text not null default '',
    name text not null,
    limit_usd numeric(30, 12) not null,
    period text not null,
    time_zone text not null,
    thresholds integer[] not null,
    enforcement text not null,
    origin text not null default 'created',
    version integer not null default 1,
    created_at timestamptz not null default now(),
    deleted_at timestamptz,
    constraint pk_budgets primary key (key),
    constraint ck_budgets_limit_not_negative check (limit_usd >= 0),
    constraint ck_budgets_period check (period in ('HOUR', 'DAY', 'WEEK', 'MONTH', 'TOTAL')),
    constraint ck_budgets_enforcement check (enforcement in ('BLOCK', 'ALERT_ONLY')),
    constraint ck_budgets_origin check (origin in ('created', 'default'))
);
--
create unique index uq_budgets_live_name on budgets (tenant, name) where deleted_at is null and origin = 'created';
--
create unique index uq_budgets_default on budgets (tenant, agent) where origin = 'default';
--
create index ix_budgets_scope on budgets (tenant, agent) where deleted_at is null;
--
create table budget_periods (
    budget uuid not null,
    period_start timestamptz not null,
    period_end timestamptz,
    spent_usd numeric(30, 12) not null default 0,
    held_usd numeric not null default 0,
    constraint pk_budget_periods primary key (budget, period_start),
    constraint fk_budget_periods_budget foreign key (budget) references budgets (key)
) with (fillfactor = 50);
--
create table budget_alerts (
    key uuid not null,
    budget uuid not null,
    period_start timestamptz not null,
    threshold integer not null,
    budget_name text not null,
    tenant text not null,
    spent_usd numeric(30, 12) not null,
    limit_usd numeric(30, 12) not null,
    raised_at timestamptz not null default now(),
    constraint pk_budget_alerts primary key (key),
    constraint uq_budget_alerts_once unique (budget, period_start, threshold),
    constraint fk_budget_alerts_budget foreign key (budget) references budgets (key)
);
--
create index ix_budget_alerts_raised_at on budget_alerts (raised_at, key);
--
-- Events on their way out. `position` is given in commit order by the one relay, never at the insert.
create table outbox (
    key uuid not null,
    topic text not null,
    tenant text not null,
    created_at timestamptz not null default now(),
    position bigint,
    constraint pk_outbox primary key (key),
    constraint uq_outbox_position unique (position)
);
--
create index ix_outbox_unplaced on outbox (created_at) where position is null;
--
create schema partitions;
--
create table usage_records (
    key uuid not null,
    at timestamptz not null,
    completion uuid,
    operation text not null,
    tenant text not null,
    agent text,
    labels jsonb not null,
    key_name text,
    provider text not null,
    model text not null,
    outcome text not null,
    provider_request_id text,
    uncached_input_tokens bigint not null,
    cached_input_tokens bigint not null,
    cache_write_5m_tokens bigint not null,
    cache_write_1h_tokens bigint not null,
    visible_output_tokens bigint not null,
    reasoning_tokens bigint not null,
    cost_usd numeric(30, 12),
    saved_usd numeric(30, 12),
    price_input_usd numeric,
    price_output_usd numeric,
    price_cache_read_usd numeric,
    price_cache_write_usd numeric,
    price_source text,
    cache_tier text,
    latency_ms double precision not null,
    confirmed boolean not null,
    constraint pk_usage_records primary key (key, at)
) partition by range (at);
--
create table partitions.usage_records_rest partition of usage_records default;
--
create index ix_usage_records_tenant on usage_records (tenant, at, key);
--
create index ix_usage_records_at on usage_records (at, key);
--
-- Sums of usage records by `grain` minutes of UTC (15, 60, 1440), kept by the settling transaction itself.
create table usage_rollups (
    grain smallint not null,
    tenant text not null,
    bucket timestamptz not null,
    provider text not null,
    model text not null,
    agent text not null,
    operation text not null,
    requests bigint not null,
    failures bigint not null,
    cache_hits bigint not null,
    unpriced_requests bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cached_input_tokens bigint not null,
    reasoning_tokens bigint not null,
    cost_usd numeric(30, 12) not null,
    saved_usd numeric(30, 12) not null,
    unconfirmed_usd numeric(30, 12) not null,
    constraint pk_usage_rollups primary key (grain, tenant, bucket, provider, model, agent, operation)
) with (fillfactor = 70);
--
create index ix_usage_rollups_bucket on usage_rollups (grain, bucket);
--
-- When each maintenance task last began, in any process.
create table upkeep (
    task text not null,
    begun_at timestamptz not null default '-infinity',
    constraint pk_upkeep primary key (task)
);
--
insert into upkeep (task) values ('tidy'), ('reconcile');
--
-- What a batch of the ledger says. Payers, targets, prices and calls are named by their place in their list, from 1: most calls share them.
create type ledger_payer as (tenant text, agent text, key_name text, operation text, labels jsonb);
--
create type ledger_target as (provider text, model text);
--
-- A call to be admitted: `input_usd` is the price of its input and `token_usd` that of one token of output, null if the target has none; it may
-- get between `min_out` and `max_out` tokens; `idem` is its idempotency key and `hash` that of its input. One with `at`, the moment of its
-- admission, is a further attempt of a call that is open.
create type ledger_request as (
    call uuid, payer int, target int, input_tokens int, max_out int, min_out int, input_usd numeric, token_usd numeric, idem text, hash bytea,
    at timestamptz
);
--
create type ledger_price as (
    provider text, model text, input_usd numeric, output_usd numeric, cache_read_usd numeric, cache_write_usd numeric, source text
);
--
-- A call to be settled: `at` is its admission, null if the process did not admit it; without a `status` it is released.
create type ledger_call as (call uuid, at timestamptz, payer int, status text);
--
create type ledger_attempt as (
    call int, price int, key uuid, outcome text, request_id text, uncached bigint, cached bigint, write_5m bigint, write_1h bigint,
    visible bigint, reasoning bigint, cost numeric, saved numeric, cache_tier text, latency double precision, confirmed boolean
);
--
-- A call of a batch as the ledger found it: 'open', 'new' to it, 'late' after it was swept, or 'done' before.
create type ledger_found as (ord int, call uuid, at timestamptz, payer int, status text, state text);
--
-- What was written, or with negative figures removed, of one moment, scope and set of labels.
create type ledger_sum as (
    tenant text, at timestamptz, provider text, model text, agent text, operation text, labels jsonb, requests bigint, failures bigint,
    cache_hits bigint, unpriced_requests bigint, input_tokens bigint, output_tokens bigint, cached_input_tokens bigint,
    reasoning_tokens bigint, cost_usd numeric, saved_usd numeric, unconfirmed_usd numeric
);
