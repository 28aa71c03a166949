-- Marks the quarters of these sums whose labels were counted already, so that they are counted again. Reports read the records of a marked
-- quarter until then.
--
-- Locks nothing. The caller holds the ledger's lock shared, and `marked_until` is moved under the exclusive one. So a record that is not
-- marked was committed before its quarter is counted.
create or replace function mark_stale_labels(sums ledger_sum[]) returns void
language plpgsql as $$
begin
    insert into label_rollups_stale (tenant, bucket)
    select distinct s.tenant, date_bin(interval '15 minutes', s.at, timestamptz '2000-01-01 00:00:00Z')
    from unnest(sums) s
    where s.labels <> '{}' and s.at < (select marked_until from label_rollups_filled);
end
$$;
