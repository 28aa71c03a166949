-- The role that serves need not own the tables: it makes partitions and shares keys by these functions of the owner, in the schema where
-- the tables are. Temporary tables come last in the search path, or a caller's own could stand in for a table here.
do $$
declare
    definer regprocedure;
begin
    foreach definer in array array[
        'make_usage_partition(timestamptz)', 'share_stream_keys(bytea, interval, interval)'
    ]::regprocedure[] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', definer, current_schema());
        execute format('revoke execute on function %s from public', definer);
    end loop;
end
$$;
