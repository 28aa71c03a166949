-- What the ledger has for a budget's scope in [starts, ends): from the roll-ups, or from the records if the scope has a label. Locks
-- nothing: the sum is exact only while the caller holds the ledger's lock exclusively.
create or replace function budget_spend(b budgets, starts timestamptz, ends timestamptz) returns numeric
language plpgsql stable as $$
begin
    if b.label_key = '' and b.period <> 'TOTAL' then
        return (
            select coalesce(sum(u.cost_usd), 0) from usage_rollups u
            where u.grain = 15 and u.bucket >= starts and u.bucket < ends
                and (b.tenant = '' or u.tenant = b.tenant) and (b.agent = '' or u.agent = b.agent)
                and (b.provider = '' or u.provider = b.provider) and (b.model = '' or u.model = b.model)
        );
    end if;
    return (
        select coalesce(sum(u.cost_usd), 0) from usage_records u
        where u.at >= starts and u.at < coalesce(ends, 'infinity')
            and (b.tenant = '' or u.tenant = b.tenant) and (b.agent = '' or u.agent = b.agent)
            and (b.provider = '' or u.provider = b.provider) and (b.model = '' or u.model = b.model)
            and (b.label_key = '' or u.labels ->> b.label_key = b.label_value)
    );
end
$$;
