create table collections (
    key uuid not null,
    tenant text not null,
    name text not null,
    store text not null,
    embedding_model text not null,
    dimensions integer not null,
    distance text not null,
    document_count bigint not null default 0,
    created_at timestamptz not null default now(),
    deleted_at timestamptz,
    constraint pk_collections primary key (key),
    constraint ck_collections_dimensions check (dimensions > 0),
    constraint ck_collections_distance check (distance in ('COSINE', 'DOT', 'EUCLIDEAN')),
    constraint ck_collections_document_count check (document_count >= 0)
)
--
create unique index uq_collections_live_name on collections (tenant, name) where deleted_at is null
--
create index ix_collections_deleted_at on collections (deleted_at) where deleted_at is not null
--
create table documents (
    key uuid not null,
    collection uuid not null,
    id text not null,
    state text not null,
    sha256 bytea not null,
    source text,
    metadata jsonb,
    changed_at timestamptz not null default now(),
    constraint pk_documents primary key (key),
    constraint fk_documents_collection foreign key (collection) references collections (key),
    constraint ck_documents_state check (state in ('pending', 'ready', 'deleted')),
    constraint ck_documents_sha256 check (octet_length(sha256) = 32)
)
--
create unique index uq_documents_ready on documents (collection, id) where state = 'ready'
--
create unique index uq_documents_pending on documents (collection, id) where state = 'pending'
--
create index ix_documents_unfinished on documents (changed_at, key) where state <> 'ready'
--
create table chunks (
    key uuid not null,
    document uuid not null,
    collection uuid not null,
    position integer not null,
    start_at integer not null,
    end_at integer not null,
    text text not null,
    sha256 bytea not null,
    vector bytea not null,
    constraint pk_chunks primary key (key),
    constraint fk_chunks_document foreign key (document) references documents (key) on delete cascade,
    constraint uq_chunks_document unique (document, position),
    constraint ck_chunks_span check (0 <= start_at and start_at <= end_at),
    constraint ck_chunks_sha256 check (octet_length(sha256) = 32)
)
--
alter table chunks alter column vector set storage external
--
create index ix_chunks_collection on chunks (collection, key)
