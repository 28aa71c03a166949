-- Sums of usage records per label by `grain` minutes of UTC (15, 60, 1440). A record counts once for each of its labels. They are filled in
-- the background, from `usage_records`. `place` is a digest of value, provider, model, agent and operation: they are too long for an index.
create table label_rollups (
    grain smallint not null,
    tenant text not null,
    label_key text not null,
    bucket timestamptz not null,
    place uuid not null,
    label_value text not null,
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
    constraint pk_label_rollups primary key (grain, tenant, label_key, bucket, place)
) with (fillfactor = 70);
--
create index ix_label_rollups_bucket on label_rollups (grain, bucket);
--
-- What the label roll-ups contain: every record from `filled_from` up to `filled_until`, but those of stale quarters. A settlement marks
-- the quarter of a record as stale if it is before `marked_until`. One row.
create table label_rollups_filled (
    filled_from timestamptz not null,
    filled_until timestamptz not null,
    marked_until timestamptz not null
);
--
insert into label_rollups_filled
select starts, starts, starts from (select date_trunc('hour', now(), 'UTC') as starts) migrated;
--
-- Quarters of an hour of a tenant whose records changed after they were counted. Each settlement adds its own rows and never waits.
create table label_rollups_stale (
    key bigint generated always as identity,
    tenant text not null,
    bucket timestamptz not null,
    constraint pk_label_rollups_stale primary key (key)
);
--
create index ix_label_rollups_stale_bucket on label_rollups_stale (bucket, tenant);
--
insert into maintenance (task, begun_at) values ('labels', '-infinity');
