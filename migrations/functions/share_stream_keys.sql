-- The keys that still open, the youngest first, with their age in seconds. If the youngest has sealed for as long as `seals`, `fresh`
-- becomes a key, and those older than `opens` are deleted. Runs with the rights of the owner of the tables: the serving role may not empty
-- a table.
--
-- Locks the keys by an advisory lock of their own, so that one process makes the next key and the others find it. Then it empties the table
-- and writes it anew: a deleted row would stay in its file. That needs the table for itself; while something else reads it, such as a dump,
-- it does not wait: rows are only deleted, and the next new key clears the file.
create or replace function share_stream_keys(fresh bytea, seals interval, opens interval) returns table (secret bytea, age double precision)
language plpgsql security definer as $$
declare
    kept_secrets bytea[];
    kept_times timestamptz[];
begin
    perform pg_advisory_xact_lock(pg_catalog.hashtextextended('greenlang stream keys', 0::bigint));
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
