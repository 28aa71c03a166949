-- The half-open period of a budget that contains `moment`. TOTAL runs from the budget's creation and has no end. An hour is shorter if the
-- clocks change by half an hour in it. Locks nothing.
create or replace function budget_period(period text, zone text, created timestamptz, moment timestamptz, out starts timestamptz, out ends timestamptz)
language plpgsql immutable as $$
declare
    local timestamp;
begin
    case period
        when 'TOTAL' then
            starts := created;
        when 'HOUR' then
            local := moment at time zone zone;
            starts := moment - (local - date_trunc('hour', local));
            local := starts at time zone zone;
            if local <> date_trunc('hour', local) then
                starts := starts + (date_trunc('hour', local) + interval '1 hour' - local);
                local := starts at time zone zone;
            end if;
            ends := starts + (date_trunc('hour', local) + interval '1 hour' - local);
        else
            local := date_trunc(period, moment at time zone zone);
            starts := local_instant(local, zone);
            ends := local_instant(local + ('1 ' || period)::interval, zone);
    end case;
end
$$;
