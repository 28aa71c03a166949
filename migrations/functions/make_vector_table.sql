-- Makes the table of one collection in the store `pgvector`, and lets the session's role read and write it. Does nothing if there is one.
-- Runs with the rights of the owner of the schema: the serving role may not make tables. Only another
-- call for the same collection waits for it.
create or replace function make_vector_table(collection uuid, dimensions integer) returns void
language plpgsql security definer as $$
declare
    part text := 'c_' || replace(collection::text, '-', '');
    home text := (select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector');
begin
    if home is null then
        raise feature_not_supported using message = 'the database has no extension vector';
    end if;
    perform pg_advisory_xact_lock(pg_catalog.hashtextextended('greenlang vector table ' || part, 0::bigint));
    if to_regclass('vectors.' || part) is null then
        execute format(
            'create table vectors.%I (chunk uuid primary key, embedding %I.vector(%s) not null, metadata jsonb not null)',
            part, home, dimensions
        );
        if dimensions <= 1900 then  -- a row fits into a page, so its vector is read with it
            execute format('alter table vectors.%I alter column embedding set storage plain', part);
        end if;
    end if;
    if not has_schema_privilege(session_user, 'vectors', 'usage') then
        execute format('grant usage on schema vectors to %I', session_user);
    end if;
    execute format('grant select, insert, update, delete on vectors.%I to %I', part, session_user);
end
$$;
