-- What was last published of a provider (its health, where `model` is empty) or of one of its models' circuits.
create table provider_states (
    provider text not null,
    model text not null,
    state text not null,
    changed_at timestamptz not null default now(),
    constraint pk_provider_states primary key (provider, model)
);
