-- Publishes a change of a provider (its health, if the model is empty) or of one of its models' circuits once, however many processes
-- notice it. The state of a circuit is forgotten after a minute, because a process that died while it was open cannot publish that it is
-- closed.
--
-- Locks the row of the state: of processes that notice at once, the first writes the event and the others find it written.
create or replace function provider_changed(of_provider text, of_model text, to_state text, event jsonb) returns void
language plpgsql as $$
begin
    insert into provider_states as s (provider, model, state) values (of_provider, of_model, to_state)
    on conflict (provider, model) do update set state = excluded.state, changed_at = now()
    where s.state <> excluded.state or (s.model <> '' and s.changed_at < now() - interval '1 minute');
    if found then
        insert into outbox (key, topic, tenant, payload) values (gen_random_uuid(), 'provider', '', event);
        perform pg_notify('greenlang_outbox', '');
    end if;
end
$$;
