-- The first instant that clocks in `zone` show as `local`: the earlier one if the hour is repeated, the first one after it if the hour is
-- skipped. Locks nothing.
create or replace function local_instant(local timestamp, zone text) returns timestamptz
language sql immutable
return case
    when ((local at time zone zone) - interval '1 hour') at time zone zone = local then (local at time zone zone) - interval '1 hour'
    else local at time zone zone
end;
