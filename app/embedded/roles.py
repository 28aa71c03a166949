"""The roles of the embedded PostgreSQL. The owner role owns the schema and migrates it; the service role serves and can neither
change the schema nor make roles. The superuser that `initdb` makes has no password, so that no connection can use it.

A cluster of a version in which one superuser did everything gets the same roles, and its objects get the new owner.
The statements run in PostgreSQL's single-user mode, before the server starts, all of them or none.
"""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from app.embedded.addresses import OWNER_ROLE, SERVICE_ROLE
from app.embedded.child import StoreFailed

DATABASE = "postgres"
_MARKER = "greenlang.roles"
_PLAIN = "login nosuperuser nocreaterole noreplication nobypassrls"

_STATEMENTS = f"""
do $$ begin
    if to_regrole('{OWNER_ROLE}') is null then create role {OWNER_ROLE}; end if;
    if to_regrole('{SERVICE_ROLE}') is null then create role {SERVICE_ROLE}; end if;
end $$;
alter role {OWNER_ROLE} with {_PLAIN} {{owner_rights}} password '{{owner_password}}';
alter role {SERVICE_ROLE} with {_PLAIN} nocreatedb password '{{service_password}}';
alter role current_user password null;
alter database {DATABASE} owner to {OWNER_ROLE};
revoke temporary on database {DATABASE} from public;
do $$
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
        select format('alter schema %I owner to {OWNER_ROLE}', nspname)
        from pg_namespace n join superuser s on s.oid = n.nspowner
        where n.oid in (select oid from ours) and ('pg_namespace'::regclass, n.oid) not in (select * from extended)
        union all
        select format('alter %s %s owner to {OWNER_ROLE}',
            case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end, c.oid::regclass)
        from pg_class c join superuser s on s.oid = c.relowner
        where relnamespace in (select oid from ours) and relkind in ('r', 'p', 'v', 'm', 'S')
            and ('pg_class'::regclass, c.oid) not in (select * from extended)
            and not (relkind = 'S' and exists (
                select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i')
            ))
        union all
        select format('alter routine %s owner to {OWNER_ROLE}', p.oid::regprocedure)
        from pg_proc p join superuser s on s.oid = p.proowner
        where pronamespace in (select oid from ours) and ('pg_proc'::regclass, p.oid) not in (select * from extended)
        union all
        select format('alter type %s owner to {OWNER_ROLE}', t.oid::regtype)
        from pg_type t join superuser s on s.oid = t.typowner left join pg_class c on c.oid = t.typrelid
        where typnamespace in (select oid from ours) and typtype in ('c', 'd', 'e', 'r') and coalesce(c.relkind, 'c') = 'c'
            and ('pg_type'::regclass, t.oid) not in (select * from extended)
    loop
        execute statement;
    end loop;
end $$;
"""


@dataclass(frozen=True, slots=True)
class Passwords:
    owner: str
    service: str


def set_up_roles(program: Path, cluster: Path, passwords: Passwords, *, volatile: bool, lock: int) -> None:
    """Only while no server runs on the cluster; does nothing if it was done before with the same passwords and statements.
    With `volatile` the owner may make databases and end connections, as tests do. Raises StoreFailed."""
    owner_rights = "createdb" if volatile else "nocreatedb"
    statements = _STATEMENTS.format(
        owner_password=passwords.owner, service_password=passwords.service, owner_rights=owner_rights
    )
    if volatile:
        statements += f"grant pg_signal_backend to {OWNER_ROLE};\n"
    done, marker = hashlib.sha256(statements.encode()).hexdigest(), cluster / _MARKER
    if marker.is_file() and marker.read_text(encoding="ascii") == done:
        return
    _run(program, cluster, statements, lock)
    marker.write_text(done, encoding="ascii")


def _run(program: Path, cluster: Path, statements: str, lock: int) -> None:
    """`-j`: the statements are one command, and so one transaction."""
    command = [program, "--single", "-j", "-D", cluster, "-c", "exit_on_error=on", "-c", "log_min_error_statement=panic", DATABASE]
    ran = subprocess.run(  # noqa: S603 - a program that this package found
        command, input=statements, text=True, capture_output=True, check=False, pass_fds=(lock,)
    )
    if ran.returncode != 0:
        raise StoreFailed(f"its roles were not set up: {' | '.join(ran.stderr.strip().splitlines()[-5:])}")
