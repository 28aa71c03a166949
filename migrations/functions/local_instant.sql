-- The first instant that clocks in `zone` show as `local`: where an hour is repeated the earlier one, where it is skipped the one after. Locks nothing.
create or replace function local_instant(local timestamp, zone text) returns timestamptz
language sql immutable
return case
    when ((local at time zone zone) - interval '1 hour') at time zone zone = local then (local at time zone zone) - interval '1 hour'
    else local at time zone zone
end;
