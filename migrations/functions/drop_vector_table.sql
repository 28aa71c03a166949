-- Drops the table of one collection in the store `pgvector`, if there is one. Runs with the rights of the owner of the schema. Waits for
-- the searches that read it.
create or replace function drop_vector_table(collection uuid) returns void
language plpgsql security definer as $$
begin
    execute format('drop table if exists vectors.%I', 'c_' || replace(collection::text, '-', ''));
end
$$;
