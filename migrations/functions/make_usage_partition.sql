-- Makes the partition of the month that contains `moment`, with the rows that wait in the default one. True if it was missing.
-- Runs with the rights of the owner of the tables: the serving role may not make any.
--
-- Locks all usage records against writing: no row of the month may come to the default partition while its rows move. It is the only lock
-- of its transaction, and settlements wait for it.
create or replace function make_usage_partition(moment timestamptz) returns boolean
language plpgsql security definer as $$
declare
    starts timestamptz := date_trunc('month', moment, 'UTC');
    ends timestamptz := (date_trunc('month', moment at time zone 'UTC') + interval '1 month') at time zone 'UTC';
    part text := 'usage_records_' || to_char(moment at time zone 'UTC', 'YYYY_MM');
begin
    if to_regclass('partitions.' || part) is not null then
        return false;
    end if;
    lock table usage_records in share row exclusive mode;
    if to_regclass('partitions.' || part) is not null then
        return false;
    end if;
    execute format('create table partitions.%I (like usage_records including defaults including constraints including indexes)', part);
    execute format(
        'with moved as (delete from partitions.usage_records_rest where at >= %L and at < %L returning *) '
        'insert into partitions.%I select * from moved', starts, ends, part
    );
    execute format('alter table usage_records attach partition partitions.%I for values from (%L) to (%L)', part, starts, ends);
    return true;
end
$$;
