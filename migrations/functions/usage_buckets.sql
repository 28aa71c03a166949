-- The roll-up rows that a moment counts in: its 15 minutes, its hour and its day, in UTC. Locks nothing.
create or replace function usage_buckets(moment timestamptz) returns table (grain smallint, bucket timestamptz)
language sql immutable
begin atomic
    select 15::smallint, date_bin(interval '15 minutes', usage_buckets.moment, timestamptz '2000-01-01 00:00:00Z')
    union all select 60::smallint, date_trunc('hour', usage_buckets.moment, 'UTC')
    union all select 1440::smallint, date_trunc('day', usage_buckets.moment, 'UTC');
end;
