-- Keys that one installation makes for itself and shares among its processes: 244 random bits each.
create table installation_secrets (
    name text not null,
    secret bytea not null,
    constraint pk_installation_secrets primary key (name)
);
--
insert into installation_secrets (name, secret)
values ('cost_exports', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
