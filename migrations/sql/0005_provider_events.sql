-- What was last published of a provider (its health, where `model` is empty) or of one of its models' circuits.
create table provider_states (
    provider text not null,
    model text not null,
    state text not null,
    changed_at timestamptz not null default now(),
    constraint pk_provider_states primary key (provider, model)
);
--
-- Tells a change once, however many processes notice it. A circuit's is forgotten after a minute: a process that died while it was
-- open has not published that it is closed.
create function provider_changed(of_provider text, of_model text, to_state text, event jsonb) returns void
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
