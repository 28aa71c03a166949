-- Keys that seal the entries of running streams, shared by all processes. Unlogged: no key is in the write-ahead log, and a crash of the
-- server empties the table.
create unlogged table stream_keys (
    key uuid not null default gen_random_uuid(),
    secret bytea not null,
    made_at timestamptz not null default clock_timestamp(),
    constraint pk_stream_keys primary key (key)
);
--
-- The documents that are still kept, by the end of their calls: content may be kept for less time than the memory of an idempotency key.
create index ix_completions_finished_at on completions (finished_at) where document is not null;
