"""Indexes of large tables. They are made after the migration, outside its transaction, while the service reads and writes.

A migration names them in its `INDEXES`. What is missing is found in the database each time, so one that was interrupted is made
at the next start. A partitioned table gets its index partition by partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class LargeIndex:
    """`definition` is what follows `on TABLE`, such as `(tenant, at) where at is not null`."""

    name: str
    table: str
    definition: str
    unique: bool = False


async def make_indexes(connection: AsyncConnection, indexes: Sequence[LargeIndex]) -> None:
    """Makes what is missing or was left unfinished. `connection` commits each statement. Only one process at a time may
    do this."""
    for index in indexes:
        state = (await connection.execute(_STATE, {"name": index.name})).one_or_none()
        if state is not None and state.is_valid:
            continue
        if (await connection.execute(_IS_PARTITIONED, {"table": index.table})).scalar_one():
            await _make_in_partitions(connection, index, exists=state is not None)
        else:
            await _make(connection, index, index.name, index.table, unfinished=state is not None)


async def _make_in_partitions(connection: AsyncConnection, index: LargeIndex, *, exists: bool) -> None:
    """The index of the parent is valid as soon as each partition's is attached to it."""
    if not exists:
        await connection.exec_driver_sql(f"create {_kind(index)} {index.name} on only {index.table} {index.definition}")
    for number, partition in (await connection.execute(_PARTITIONS, {"table": index.table, "name": index.name})).all():
        name = f"{index.name}_{number}"
        state = (await connection.execute(_STATE, {"name": name})).one_or_none()
        if state is None or not state.is_valid:
            await _make(connection, index, name, partition, unfinished=state is not None)
        place = (await connection.execute(_PLACE, {"name": name})).scalar_one()
        await connection.exec_driver_sql(f"alter index {index.name} attach partition {place}")


async def _make(connection: AsyncConnection, index: LargeIndex, name: str, table: str, *, unfinished: bool) -> None:
    if unfinished:
        place = (await connection.execute(_PLACE, {"name": name})).scalar_one()
        await connection.exec_driver_sql(f"drop index concurrently {place}")
    await connection.exec_driver_sql(f"create {_kind(index)} concurrently {name} on {table} {index.definition}")


def _kind(index: LargeIndex) -> str:
    return "unique index" if index.unique else "index"


_STATE = text(
    "select i.indisvalid as is_valid from pg_index i join pg_class c on c.oid = i.indexrelid"
    " where c.relname = :name and c.relnamespace in (current_schema()::regnamespace, to_regnamespace('partitions'))"
)
_PLACE = text(
    "select oid::regclass::text from pg_class where relname = :name and relkind in ('i', 'I')"
    " and relnamespace in (current_schema()::regnamespace, to_regnamespace('partitions'))"
)
_IS_PARTITIONED = text("select relkind = 'p' from pg_class where oid = cast(cast(:table as text) as regclass)")
_PARTITIONS = text(
    "select p.inhrelid::bigint as number, p.inhrelid::regclass::text as partition from pg_inherits p"
    " where p.inhparent = cast(cast(:table as text) as regclass) and not exists ("
    " select from pg_inherits a join pg_index i on i.indexrelid = a.inhrelid"
    " where a.inhparent = to_regclass(:name) and i.indrelid = p.inhrelid)"
    " order by 2"
)
"""The partitions whose index is not attached yet."""
