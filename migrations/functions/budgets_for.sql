-- Every budget that a call counts for. The empty text in a budget's scope matches all. Locks nothing.
create or replace function budgets_for(payer text, agent text, provider text, model text, labels jsonb)
returns table (budget uuid)
language sql stable
begin atomic
    select b.key
    from budgets b
    where b.deleted_at is null
        and b.tenant = any (array['', budgets_for.payer])
        and b.agent = any (array['', coalesce(budgets_for.agent, '')])
        and b.provider in ('', budgets_for.provider)
        and b.model in ('', budgets_for.model)
        and (b.label_key = '' or budgets_for.labels ->> b.label_key = b.label_value);
end;
