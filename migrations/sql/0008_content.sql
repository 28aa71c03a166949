-- Keys that seal the entries of running streams, shared by all processes. Unlogged: no key is in the write-ahead log, and a crash of the
-- server empties the table.
create unlogged table stream_keys (
    key uuid not null default gen_random_uuid(),
    secret bytea not null,
    made_at timestamptz not null default clock_timestamp(),
    constraint pk_stream_keys primary key (key)
);
--
-- The keys that still open, the youngest first, with their age in seconds. If the youngest has sealed for as long as `seals`, `fresh` becomes a
-- key, and those older than `opens` are deleted. The table is emptied and written anew for that: a deleted row would stay in its file. While
-- something else reads the table, such as a dump, rows are only deleted, and the next new key clears the file.
create function share_stream_keys(fresh bytea, seals interval, opens interval) returns table (secret bytea, age double precision)
language plpgsql security definer set search_path from current as $$
declare
    kept_secrets bytea[];
    kept_times timestamptz[];
begin
    perform pg_advisory_xact_lock(hashtextextended('greenlang stream keys', 0));
    if not exists (select from stream_keys k where k.made_at > clock_timestamp() - seals) then
        begin
            lock table stream_keys in access exclusive mode nowait;
            select array_agg(k.secret), array_agg(k.made_at) into kept_secrets, kept_times
            from stream_keys k
            where k.made_at > clock_timestamp() - opens;
            truncate stream_keys;
            insert into stream_keys (secret, made_at) select * from unnest(kept_secrets, kept_times);
        exception when lock_not_available then
            delete from stream_keys k where k.made_at <= clock_timestamp() - opens;
        end;
        insert into stream_keys (secret) values (fresh);
    end if;
    return query
        select k.secret, extract(epoch from clock_timestamp() - k.made_at)::double precision
        from stream_keys k
        where k.made_at > clock_timestamp() - opens
        order by k.made_at desc;
end
$$;
--
-- The documents that are still kept, by the end of their calls: content may be kept for less time than the memory of an idempotency key.
create index ix_completions_finished_at on completions (finished_at) where document is not null;
