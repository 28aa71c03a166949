"""The rights of the serving role in a schema that another role owns, and its time limits.

The owner grants rights after every migration, and only what is missing, so a new table or function is never without its grant.
Partitions need no grants, because they are read and written through their table.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.failures import is_unavailable
from app.domain.errors import SettingsError


async def grant_serving(connection: AsyncConnection, role: str) -> None:
    """Grants `role` the rights that it needs to serve and does not have in the connection's schema. Raises SettingsError if the
    role does not exist."""
    known = await connection.execute(text("select 1 from pg_roles where rolname = :role"), {"role": role})
    if known.first() is None:
        raise SettingsError("database.primary", f"the role {role} does not exist in the database; create it first")
    for (statement,) in (await connection.execute(_MISSING_GRANTS, {"role": role})).all():
        await connection.exec_driver_sql(statement)


async def risks_of_roles(connection: AsyncConnection, role: str) -> list[str]:
    """Returns warnings for the log about the rights of `role` and of the connection's own role, the owner."""
    found = (await connection.execute(_RIGHTS, {"role": role})).one()
    risks = []
    if found.may_create:
        risks.append(
            f"the role {role} serves and may create objects in the schema {found.schema}: what it makes there can run with the "
            f"rights of the owner; run: revoke create on schema {found.schema} from public, {role}"
        )
    if found.is_superuser:
        risks.append(f"the role {found.owner} of database.owner is a superuser; an ordinary role that owns the schema is enough")
    return risks


async def set_role_limits(connection: AsyncConnection, limits: Mapping[str, timedelta]) -> bool:
    """Sets time limits of the connection's own role in this database, by the names of PostgreSQL's settings. They are defaults
    of the role, not of a connection, because a pooler would refuse the latter or pass them on to another client. Returns False
    if the server does not let the role set them."""
    current = (await connection.execute(_DEFAULTS)).scalar() or ()
    for name, limit in limits.items():
        milliseconds = str(limit // timedelta(milliseconds=1))
        if f"{name}={milliseconds}" in current:
            continue
        try:
            statement = (await connection.execute(_SET_LIMIT, {"name": name, "milliseconds": milliseconds})).scalar_one()
            await connection.exec_driver_sql(statement)
        except DBAPIError as error:
            if is_unavailable(error):
                raise
            return False
    return True


_RIGHTS = text(
    "select current_user as owner, quote_ident(current_schema()) as schema,"
    " has_schema_privilege(:role, current_schema(), 'create') as may_create,"
    " (select rolsuper from pg_roles where rolname = current_user) as is_superuser"
)
_DEFAULTS = text(
    "select s.setconfig from pg_db_role_setting s join pg_roles r on r.oid = s.setrole"
    " join pg_database d on d.oid = s.setdatabase where r.rolname = current_user and d.datname = current_database()"
)
_SET_LIMIT = text(
    "select format('alter role %I in database %I set %I = %L',"
    " current_user, current_database(), cast(:name as text), cast(:milliseconds as text))"
)
_MISSING_GRANTS = text(
    """
    with serving as (
        select oid, rolname from pg_roles where rolname = :role
    ), relations as (
        select c.oid, c.relkind,
            case when c.relkind = 'v' or c.relname = 'alembic_version' then 'select' else 'select, insert, update, delete' end
                as rights
        from pg_class c
        where c.relnamespace in (current_schema()::regnamespace, to_regnamespace('vectors')) and c.relkind in ('r', 'p', 'v', 'S')
            and pg_has_role(c.relowner, 'usage')
    )
    select format('grant usage on schema %I to %I', n.nspname, s.rolname)
    from serving s, pg_namespace n
    where n.nspname in (current_schema(), 'vectors') and not has_schema_privilege(s.oid, n.oid, 'usage')
    union all
    select format('grant %s on %s to %I', r.rights, r.oid::regclass, s.rolname)
    from serving s, relations r
    where r.relkind <> 'S' and exists (
        select from regexp_split_to_table(r.rights, ', ') wanted where not has_table_privilege(s.oid, r.oid, wanted)
    )
    union all
    select format('grant usage on sequence %s to %I', r.oid::regclass, s.rolname)
    from serving s, relations r
    where r.relkind = 'S' and not has_sequence_privilege(s.oid, r.oid, 'usage')
    union all
    select format('grant execute on routine %s to %I', p.oid::regprocedure, s.rolname)
    from serving s, pg_proc p
    where p.pronamespace = current_schema()::regnamespace and pg_has_role(p.proowner, 'usage')
        and not has_function_privilege(s.oid, p.oid, 'execute')
    """
)
