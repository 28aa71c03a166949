create table api_keys (
    id uuid not null,
    tenant text not null,
    name text not null,
    hint text not null,
    secret_hash bytea not null,
    scopes text[] not null,
    agent text,
    expires_at timestamptz,
    requests_per_minute integer,
    max_concurrent integer,
    created_at timestamptz not null default now(),
    changed_at timestamptz not null default now(),
    revoked_at timestamptz,
    version integer not null default 1,
    constraint pk_api_keys primary key (id),
    constraint uq_api_keys_hint unique (hint),
    constraint ck_api_keys_secret_hash_is_sha256 check (octet_length(secret_hash) = 32),
    constraint ck_api_keys_requests_per_minute_positive check (requests_per_minute > 0),
    constraint ck_api_keys_max_concurrent_positive check (max_concurrent > 0)
);
--
create unique index uq_api_keys_live_tenant_name on api_keys (tenant, name) where revoked_at is null;
--
create index ix_api_keys_changed_at on api_keys (changed_at) where version > 1;
