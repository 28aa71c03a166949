-- The role that serves need not own the tables: it makes partitions by this function of the owner, in the schema where the tables are.
-- Temporary tables come last in the search path, or a caller's own could stand in for a table here.
do $$
begin
    execute format('alter function make_usage_partition(timestamptz) security definer set search_path = %I, pg_temp', current_schema());
end
$$;
--
revoke execute on function make_usage_partition(timestamptz) from public;
