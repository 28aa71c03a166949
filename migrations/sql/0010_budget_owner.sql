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
