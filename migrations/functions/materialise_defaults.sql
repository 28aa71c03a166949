-- A budget for each tenant and agent that the configuration gives one, made with its first call and never again. Returns those it made.
--
-- The caller holds the ledger's lock exclusively, so that each can be opened. New rows are inserted by tenant and agent.
create or replace function materialise_defaults(defaults jsonb) returns setof budgets
language sql
begin atomic
    insert into budgets (key, name, tenant, agent, limit_usd, period, time_zone, thresholds, enforcement, origin, owner)
    select gen_random_uuid(), d.name, d.tenant, d.agent, d.limit_usd, d.period, d.time_zone, d.thresholds, d.enforcement, 'default',
        'INSTALLATION'
    from jsonb_to_recordset(defaults) d (
        name text, tenant text, agent text, limit_usd numeric, period text, time_zone text, thresholds int[], enforcement text
    )
    order by d.tenant, d.agent
    on conflict (tenant, agent) where origin = 'default' do nothing
    returning *;
end;
