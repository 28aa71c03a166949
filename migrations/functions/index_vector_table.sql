-- Makes the HNSW index of one collection in the store `pgvector`. True if there was none. Runs with the rights of the owner of the schema.
--
-- Only one process makes it; another that asks meanwhile gets false at once. While it is made, the table can be read and not written. It
-- is made without parallel workers: their shared memory may be more than a container has.
create or replace function index_vector_table(collection uuid, distance text) returns boolean
language plpgsql security definer as $$
declare
    part text := 'c_' || replace(collection::text, '-', '');
    home text := (select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector');
    dimensions integer := (
        select atttypmod from pg_attribute where attrelid = to_regclass('vectors.' || part) and attname = 'embedding'
    );
    kind text := case when dimensions <= 2000 then 'vector' else 'halfvec' end;
    way text := case distance when 'COSINE' then 'cosine' when 'DOT' then 'ip' when 'EUCLIDEAN' then 'l2' end;
begin
    if dimensions is null or way is null or to_regclass('vectors.' || part || '_hnsw') is not null then
        return false;
    end if;
    if not pg_try_advisory_xact_lock(pg_catalog.hashtextextended('greenlang vector index ' || part, 0::bigint)) then
        return false;
    end if;
    perform set_config('max_parallel_maintenance_workers', '0', true), set_config('maintenance_work_mem', '256MB', true);
    execute format(
        'create index %I on vectors.%I using hnsw ((embedding::%I.%s(%s)) %I.%I) with (m = 24, ef_construction = 128)',
        part || '_hnsw', part, home, kind, dimensions, home, kind || '_' || way || '_ops'
    );
    return true;
end
$$;
