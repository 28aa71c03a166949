"""Databases of tests: a migrated template, copies of it, and one that is like a new copy whenever a test gets it.

A new copy costs more than most tests do. So the database of one test is emptied for the next: its rows go, those of the template
come back, its sequences start anew, and further partitions are dropped. What else a test did to the schema, a connection that it
left, or a size that it has reached makes a new copy instead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import asyncpg

from app.db.migrate import migrate, serving_role

_TEMPLATE = "migrated"
_MAX_GROWTH_BYTES = 4 * 2**20
_SECONDS_TO_LEAVE = 0.5

_SCHEMA = """
select md5(string_agg(part, ',' order by part)) from (
    select format('%s %s %s %s %s', oid, relname, relowner, relacl, reloptions) from pg_class where oid >= 16384
    union all select format('%s %s %s', tableoid, oid, xmin) from pg_type where oid >= 16384
    union all select format('%s %s %s', tableoid, oid, xmin) from pg_proc where oid >= 16384
    union all select format('%s %s %s', tableoid, oid, xmin) from pg_trigger where oid >= 16384
    union all select format('%s %s %s', tableoid, oid, xmin) from pg_constraint where oid >= 16384
    union all select format('%s %s %s', tableoid, oid, xmin) from pg_attrdef
    union all select format('%s %s %s', tableoid, oid, xmin) from pg_default_acl
    union all select format('%s %s %s', tableoid, oid, xmin) from pg_namespace
    union all select format('%s %s %s %s', tableoid, attrelid, attnum, xmin) from pg_attribute where attrelid >= 16384
    union all select format('%s %s', setrole, setconfig) from pg_db_role_setting
        where setdatabase = (select oid from pg_database where datname = current_database())
    union all select datacl::text from pg_database where datname = current_database()
) as parts (part)
"""
"""Changes with whatever is made, changed or dropped, but not with a truncated table."""
_PARTITIONS = """
select oid::regclass::text from pg_class
where oid >= 16384 and relkind = 'r' and (relispartition or relnamespace = to_regnamespace('vectors'))
"""
"""And the tables of collections, which are made and dropped as partitions are."""
_TABLES = """
select oid::regclass::text from pg_class
where oid >= 16384 and relkind in ('r', 'p') and not relispartition and relnamespace <> to_regnamespace('vectors')
order by not exists (select from pg_constraint where conrelid = pg_class.oid and contype = 'f'), 1
"""
"""Those that refer to others come first."""
_ROWS = """
select format(
    'insert into {table} overriding system value select * from json_populate_recordset(null::{table}, %L)', json_agg(each)
) from {table} as each having count(*) > 0
"""
_SEQUENCES = """
select format(
    'select setval(%L, %s, %L)',
    format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value), last_value is not null
) from pg_sequences
"""
_SESSIONS = """
select count(*) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and usesysid is not null
"""


@dataclass(frozen=True)
class _Blank:
    """A new copy, and the statements that make another one like it."""

    schema: str
    bytes: int
    partitions: frozenset[str]
    refill: str


class DatabaseServer:
    """`owner` and `service` are URLs without a database, of the role that owns every database and of the role that serves."""

    def __init__(self, owner: str, service: str) -> None:
        self.owner = owner.rpartition("/")[0]
        self.service = service.rpartition("/")[0]
        self._runner = asyncio.Runner()
        self._admin = self._runner.run(asyncpg.connect(f"{self.owner}/postgres"))
        self._made = 0
        self._blank: _Blank | None = None
        self._emptied: str | None = None
        self._execute(f"create database {_TEMPLATE}")
        self._runner.run(migrate(f"{self.owner}/{_TEMPLATE}", serving=serving_role(service)))

    def close(self) -> None:
        self._runner.run(self._admin.close())
        self._runner.close()

    def create(self, database: str) -> None:
        """A copy of the template, in which the role that serves cannot make temporary tables either."""
        self._execute(f"create database {database} template {_TEMPLATE} strategy file_copy")
        self._execute(f"revoke temporary on database {database} from public")

    @contextmanager
    def lend(self) -> Iterator[str]:
        """The name of a database that is as a new copy is."""
        name, self._emptied = self._emptied or self._make(), None
        yield name
        try:
            emptied = self._runner.run(self._empty(name))
        except asyncpg.ObjectNotInPrerequisiteStateError:  # it takes no connections any more
            emptied = False
        if emptied:
            self._emptied = name
        else:
            self._execute(f"drop database {name} with (force)")

    def _execute(self, statement: str) -> None:
        self._runner.run(self._admin.execute(statement))

    def _make(self) -> str:
        name = f"test_{self._made}"
        self._made += 1
        self.create(name)
        if self._blank is None:
            self._blank = self._runner.run(self._look(name))
        return name

    async def _look(self, name: str) -> _Blank:
        async with self._connected(name) as connection:
            tables = [table for (table,) in await connection.fetch(_TABLES)]
            rows = [await connection.fetchval(_ROWS.format(table=table)) for table in tables]
            sequences = [statement for (statement,) in await connection.fetch(_SEQUENCES)]
            partitions = [partition for (partition,) in await connection.fetch(_PARTITIONS)]
            deletions = [f"delete from {table}" for table in tables]
            return _Blank(
                schema=await connection.fetchval(_SCHEMA),
                bytes=await connection.fetchval("select pg_database_size(current_database())"),
                partitions=frozenset(partitions),
                refill=";".join([*deletions, *filter(None, rows), *sequences]),
            )

    async def _empty(self, name: str) -> bool:
        """Whether it is like a new copy then."""
        assert self._blank is not None
        async with self._connected(name) as connection:
            deadline = time.monotonic() + _SECONDS_TO_LEAVE
            while await connection.fetchval(_SESSIONS):
                if time.monotonic() > deadline:
                    return False
                await asyncio.sleep(0.002)
            made = [partition for (partition,) in await connection.fetch(_PARTITIONS) if partition not in self._blank.partitions]
            if made:
                await connection.execute(f"drop table {', '.join(made)}")
            if await connection.fetchval(_SCHEMA) != self._blank.schema:
                return False
            if await connection.fetchval("select pg_database_size(current_database())") > self._blank.bytes + _MAX_GROWTH_BYTES:
                return False
            await connection.execute(self._blank.refill)
            return True

    @asynccontextmanager
    async def _connected(self, name: str) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(f"{self.owner}/{name}", statement_cache_size=0)
        try:
            yield connection
        finally:
            await connection.close()
