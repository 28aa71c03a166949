do $$$$ begin
    if to_regrole('greenlang_owner') is null then create role greenlang_owner; end if;
    if to_regrole('greenlang_service') is null then create role greenlang_service; end if;
end $$$$;
alter role greenlang_owner with login nosuperuser nocreaterole noreplication nobypassrls $owner_rights password '$owner_password';
alter role greenlang_service with login nosuperuser nocreaterole noreplication nobypassrls nocreatedb password '$service_password';
alter role greenlang_owner reset all;
alter role greenlang_owner in database postgres reset all;
alter role greenlang_service reset all;
alter role greenlang_service in database postgres reset all;
alter role current_user password null;
alter database postgres owner to greenlang_owner;
revoke temporary on database postgres from public;
do $$$$
declare
    statement text;
begin
    for statement in
        with ours as (
            select oid from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'
        ), superuser as (
            select oid from pg_roles where rolname = current_user
        ), extended as (
            select classid, objid from pg_depend where deptype = 'e'
        )
        select format('alter schema %I owner to greenlang_owner', nspname)
        from pg_namespace n join superuser s on s.oid = n.nspowner
        where n.oid in (select oid from ours) and ('pg_namespace'::regclass, n.oid) not in (select * from extended)
        union all
        select format('alter %s %s owner to greenlang_owner',
            case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end, c.oid::regclass)
        from pg_class c join superuser s on s.oid = c.relowner
        where relnamespace in (select oid from ours) and relkind in ('r', 'p', 'v', 'm', 'S')
            and ('pg_class'::regclass, c.oid) not in (select * from extended)
            and not (relkind = 'S' and exists (
                select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i')
            ))
        union all
        select format('alter routine %s owner to greenlang_owner', p.oid::regprocedure)
        from pg_proc p join superuser s on s.oid = p.proowner
        where pronamespace in (select oid from ours) and ('pg_proc'::regclass, p.oid) not in (select * from extended)
        union all
        select format('alter type %s owner to greenlang_owner', t.oid::regtype)
        from pg_type t join superuser s on s.oid = t.typowner left join pg_class c on c.oid = t.typrelid
        where typnamespace in (select oid from ours) and typtype in ('c', 'd', 'e', 'r') and coalesce(c.relkind, 'c') = 'c'
            and ('pg_type'::regclass, t.oid) not in (select * from extended)
    loop
        execute statement;
    end loop;
end $$$$;
