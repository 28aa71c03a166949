-- Who set a budget, and so may change it: 'INSTALLATION' (an administrator or the configuration), 'TENANT', or 'AGENT' for the scope's agent.
-- The default is the owner whose budgets only an administrator can change.
alter table budgets add column owner text not null default 'INSTALLATION';
--
update budgets set owner = 'TENANT' where origin = 'created' and tenant <> '';
--
alter table budgets add constraint ck_budgets_owner check (
    owner = 'INSTALLATION' or (owner = 'TENANT' and tenant <> '') or (owner = 'AGENT' and tenant <> '' and agent <> '')
);
--
-- One owner neither takes a name from another nor learns of its budgets.
drop index uq_budgets_live_name;
--
create unique index uq_budgets_live_name on budgets (tenant, owner, (case when owner = 'AGENT' then agent else '' end), name)
    where deleted_at is null and origin = 'created';
--
-- A budget as it stands now, in its running period.
create or replace view budget_now as
select b.key, b.tenant, b.agent, b.provider, b.model, b.label_key, b.label_value, b.name, b.limit_usd, b.period, b.time_zone, b.thresholds,
    b.enforcement, b.origin, b.version, b.created_at, b.deleted_at, p.starts as period_start, p.ends as period_end,
    coalesce(s.spent_usd, 0) as spent_usd, coalesce(s.held_usd, 0) as held_usd, b.owner
from budgets b
cross join lateral budget_period(b.period, b.time_zone, b.created_at, now()) p
left join budget_periods s on s.budget = b.key and s.period_start = p.starts;
--
-- A budget for each tenant and agent that the configuration gives one, made with its first call and never again.
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
