-- Fills the next quarter of an hour of the label roll-ups: the one after the filled span, up to `marked_until`; then, backwards, that of the
-- newest record before the span. False if there is nothing more to fill.
--
-- Locks `label_rollups_filled`, so one transaction fills at a time and reads what the one before has committed.
create or replace function extend_label_rollups() returns boolean
language plpgsql as $$
declare
    quarter constant interval := interval '15 minutes';
    filled label_rollups_filled;
    older timestamptz;
begin
    select * into filled from label_rollups_filled for update;
    if filled.filled_until < filled.marked_until then
        perform fill_label_rollups(filled.filled_until, filled.filled_until + quarter, null);
        update label_rollups_filled set filled_until = filled_until + quarter;
        return true;
    end if;
    if filled.filled_from = '-infinity' then
        return false;
    end if;
    select date_bin(quarter, u.at, timestamptz '2000-01-01 00:00:00Z') into older
    from usage_records u where u.at < filled.filled_from order by u.at desc limit 1;
    if older is not null then
        perform fill_label_rollups(older, older + quarter, null);
    end if;
    update label_rollups_filled set filled_from = coalesce(older, '-infinity');
    return older is not null;
end
$$;
