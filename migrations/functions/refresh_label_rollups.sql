-- Counts at most `most` stale quarters again. Returns how many.
--
-- Locks `label_rollups_filled`, as `extend_label_rollups` does. The marks are deleted before the records are read: a record that comes later
-- has a mark that stays.
create or replace function refresh_label_rollups(most int) returns int
language plpgsql as $$
declare
    stale record;
    refreshed int := 0;
begin
    perform from label_rollups_filled for update;
    for stale in
        with picked as (
            select tenant, bucket from label_rollups_stale group by tenant, bucket order by bucket, tenant limit most
        ), deleted as (
            delete from label_rollups_stale s using picked p where s.tenant = p.tenant and s.bucket = p.bucket
        )
        select tenant, bucket from picked
    loop
        perform fill_label_rollups(stale.bucket, stale.bucket + interval '15 minutes', stale.tenant);
        refreshed := refreshed + 1;
    end loop;
    return refreshed;
end
$$;
