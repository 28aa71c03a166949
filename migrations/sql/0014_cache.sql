create table cache_entries (
    tenant text not null,
    name text not null,
    value bytea not null,
    tags text[] not null,
    bytes bigint not null,
    expires_at timestamptz not null,
    constraint pk_cache_entries primary key (tenant, name)
)
--
create index ix_cache_entries_expires_at on cache_entries (expires_at)
--
create table cache_evictions (
    evictions bigint not null
)
--
insert into cache_evictions values (0)
--
insert into maintenance (task, begun_at) values ('cache', '-infinity')
--
create table cache_invalidations (
    tenant text not null,
    kind text not null,
    value text not null,
    at timestamptz not null,
    constraint pk_cache_invalidations primary key (tenant, kind, value),
    constraint ck_cache_invalidations_kind check (kind in ('name', 'pattern', 'tag', 'everything'))
)
