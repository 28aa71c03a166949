"""The store in the service's own database: a table for each collection, in the schema `vectors`.

Small collections are searched exactly: that is as fast as an index, and finds everything. Large ones get an HNSW index of their
own, which goes on scanning until enough rows match the filter. If it still ends short, the search is made again, exactly.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import sys
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from io import BytesIO
from uuid import UUID

import asyncpg
from sqlalchemy import ColumnElement, column, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError

from app.db.sessions import ReadSession, Sessions, WriteSession
from app.db.vector_extension import vector_extension_schema
from app.domain.errors import Refused, StoreUnavailable
from app.domain.problems import InvalidInput
from app.runtime.tasks import end_tasks
from app.vectors.filter_sql import filter_condition
from app.vectors.filters import Filter
from app.vectors.store import Distance, Hit, Index, IndexedChunk, StoreBusy, Vector
from app.vectors.vector import vector_of

MAX_DIMENSIONS = 4000
_MAX_WHOLE_PRECISION = 2000
"""HNSW indexes vectors of up to 2,000 dimensions; longer ones as half-precision numbers, up to 4,000."""
INDEX_FROM_BYTES = 24 * 2**20
EXACT_UP_TO_BYTES = 32 * 2**20
"""The index is made before it is needed, while that takes seconds: it cannot be written to meanwhile."""
_INDEX_SECONDS = 3600.0
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_ROW = struct.Struct(">hi16sihh")
_COPY_JSON = struct.Struct(">iB")
_COPY_END = b"\xff\xff"
_PAGE = 1000
_OPERATORS = {Distance.COSINE: "<=>", Distance.EUCLIDEAN: "<->", Distance.DOT: "<#>"}
_METADATA: ColumnElement[object] = column("metadata", JSONB)
_log = logging.getLogger(__name__)


class PgVector:
    def __init__(
        self, sessions: Sessions, *, index_from_bytes: int = INDEX_FROM_BYTES, exact_up_to_bytes: int = EXACT_UP_TO_BYTES
    ) -> None:
        """A table of more than `exact_up_to_bytes` is searched by its index."""
        self._sessions = sessions
        self._index_from_bytes = index_from_bytes
        self._exact_up_to_bytes = exact_up_to_bytes
        self._schema: str | None = None
        self._indexing: dict[UUID, asyncio.Task[None]] = {}

    @property
    def max_dimensions(self) -> int:
        return MAX_DIMENSIONS

    async def create(self, index: Index) -> None:
        async with self._sessions.write() as session:
            await self._extension(session)
            await session.execute(text("select make_vector_table(:key, :dimensions)"), _values(index))

    async def drop(self, index: Index) -> None:
        async with self._sessions.write() as session:
            await session.execute(text("select drop_vector_table(:key)"), {"key": index.key})

    async def upsert(self, index: Index, chunks: Sequence[IndexedChunk]) -> None:
        """Rows are copied in the server's binary form, which is several times as fast as parameters are."""
        try:
            async with self._sessions.write() as session:
                size: int | None = (await session.execute(_PREPARE_WRITE, {"table": _table(index)})).scalar_one()
                await session.execute(text(_DELETE.format(_table(index))), {"keys": [chunk.key for chunk in chunks]})
                connection = await _driver(session)
                columns, rows = ("chunk", "embedding", "metadata"), BytesIO(copy_stream(chunks))
                await connection.copy_to_table(index.name, schema_name="vectors", columns=columns, source=rows, format="binary")
        except DBAPIError as error:
            if isinstance(error.orig.__cause__ if error.orig else None, asyncpg.LockNotAvailableError):
                raise StoreBusy("pgvector") from error
            raise
        if (size or 0) >= self._index_from_bytes and index.key not in self._indexing:
            task = self._indexing[index.key] = asyncio.create_task(self._make_index(index))
            task.add_done_callback(lambda _: self._indexing.pop(index.key, None))

    async def delete(self, index: Index, keys: Sequence[UUID]) -> None:
        async with self._sessions.write() as session:
            if await self._bytes(session, index) is not None:
                await session.execute(text(_DELETE.format(_table(index))), {"keys": list(keys)})

    async def search(self, index: Index, vector: Vector, count: int, where: Filter | None = None) -> list[Hit]:
        async with self._sessions.read(primary=True) as session:
            schema = await self._extension(session)
            size = await self._bytes(session, index)
            if size is None:
                return []
            statement = _Search(index, schema, vector, count, where)
            hits: list[Hit] = []
            if size > self._exact_up_to_bytes:
                await session.execute(_SET_SCAN)
                hits = await statement.by_index(session)
            return hits if len(hits) >= count else await statement.exactly(session)

    async def read(self, index: Index) -> AsyncIterator[Sequence[IndexedChunk]]:
        after = UUID(int=0)
        while True:
            async with self._sessions.read(primary=True) as session:
                schema = await self._extension(session)
                if await self._bytes(session, index) is None:
                    return
                statement = text(_READ.format(table=_table(index), schema=schema))
                rows = (await session.execute(statement, {"after": after, "limit": _PAGE})).all()
            if not rows:
                return
            yield [IndexedChunk(UUID(int=row.chunk.int), vector_of(row.numbers), json.loads(row.fields)) for row in rows]
            after = rows[-1].chunk

    async def check(self) -> None:
        async with self._sessions.read(primary=True) as session:
            with suppress(Refused):
                await self._extension(session)

    async def finished_indexing(self) -> None:
        """Returns when no index is being made by this process."""
        while self._indexing:
            await asyncio.wait(self._indexing.values())

    async def close(self) -> None:
        await end_tasks(self._indexing.values())

    async def _extension(self, session: ReadSession | WriteSession) -> str:
        """Returns the schema of the extension. Raises Refused(InvalidInput) if the database does not have it."""
        if self._schema is None:
            self._schema = await vector_extension_schema(session)
        if self._schema is None:
            raise Refused(
                InvalidInput(
                    "The store pgvector needs the extension vector in the database, version 0.8 or newer. A superuser can create "
                    "it: create extension vector. Or choose another store.",
                    ("store",),
                )
            )
        return self._schema

    async def _bytes(self, session: ReadSession | WriteSession, index: Index) -> int | None:
        """Returns the size of the table; None if there is none."""
        size: int | None = (await session.execute(_BYTES, {"table": _table(index)})).scalar_one()
        return size

    async def _make_index(self, index: Index) -> None:
        """An index that is not made now is made after a later upsert; until then the collection is searched exactly."""
        try:
            async with self._sessions.write() as session:
                await session.execute(text("select set_config('statement_timeout', '0', true)"))
                connection = await _driver(session)
                made = await connection.fetchval(_MAKE_INDEX, index.key, index.distance.value, timeout=_INDEX_SECONDS)
            if made:
                _log.info("an index of vectors was made", extra={"collection": str(index.key)})
        except StoreUnavailable:
            _log.warning("an index of vectors was not made", extra={"collection": str(index.key)})


class _Search:
    def __init__(self, index: Index, schema: str, vector: Vector, count: int, where: Filter | None) -> None:
        self._index = index
        self._count = count
        self._query = f"(select cast(cast(:query as text) as {schema}.vector))"
        self._half = f"{schema}.halfvec({index.dimensions})" if index.dimensions > _MAX_WHOLE_PRECISION else None
        self._operator = f"operator({schema}.{_OPERATORS[index.distance]})"
        self._values: dict[str, object] = {"query": f"[{','.join(map(repr, vector))}]"}
        self._where = where

    async def exactly(self, session: ReadSession) -> list[Hit]:
        """Adding 0 keeps the planner from using the index."""
        return await self._hits(session, f"(embedding {self._operator} {self._query}) + 0", "distance, chunk")

    async def by_index(self, session: ReadSession) -> list[Hit]:
        distance = f"embedding {self._operator} {self._query}"
        order = distance
        if self._half is not None:
            order = f"embedding::{self._half} {self._operator} cast({self._query} as {self._half})"
        return await self._hits(session, distance, order)

    async def _hits(self, session: ReadSession, distance: str, order: str) -> list[Hit]:
        statement = select(text(f"chunk, {distance} as distance")).select_from(text(_table(self._index)))
        if self._where is not None:
            statement = statement.where(filter_condition(self._where, _METADATA))
        rows = (await session.execute(statement.order_by(text(order)).limit(self._count), self._values)).all()
        score = self._index.distance.score_of_distance
        hits = [Hit(UUID(int=row.chunk.int), score(row.distance)) for row in rows]
        return sorted(hits, key=lambda hit: (-hit.score, hit.key))


async def _driver(session: WriteSession) -> asyncpg.Connection:
    connection = (await session.get_raw_connection()).driver_connection
    assert isinstance(connection, asyncpg.Connection)
    return connection


def copy_stream(chunks: Sequence[IndexedChunk]) -> bytes:
    """Rows of a chunk's key, vector and metadata in PostgreSQL's binary form of COPY. A vector is the number of its dimensions
    and a zero, both of 16 bits, and its numbers; JSONB is a version and a text. All numbers are big-endian."""
    parts = [_COPY_HEADER]
    for chunk in chunks:
        vector, metadata = array("f", chunk.vector), json.dumps(dict(chunk.metadata)).encode()
        if sys.byteorder == "little":
            vector.byteswap()
        numbers = vector.tobytes()
        parts += [
            _COPY_ROW.pack(3, 16, chunk.key.bytes, len(numbers) + 4, len(vector), 0),
            numbers,
            _COPY_JSON.pack(len(metadata) + 1, 1),
            metadata,
        ]
    return b"".join([*parts, _COPY_END])


def _table(index: Index) -> str:
    return f"vectors.{index.name}"


def _values(index: Index) -> dict[str, object]:
    return {"key": index.key, "dimensions": index.dimensions}


_BYTES = text("select /* vectors.bytes */ pg_table_size(to_regclass(:table))")
_SET_SCAN = text(
    "select /* vectors.set_scan */"
    " set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.ef_search', '400', true),"
    " set_config('hnsw.max_scan_tuples', '40000', true)"
)
_MAKE_INDEX = "select /* vectors.make_index */ index_vector_table($1, $2)"
_DELETE = "delete /* vectors.delete */ from {} where chunk = any(:keys)"
_PREPARE_WRITE = text(
    "select /* vectors.prepare_write */ pg_table_size(to_regclass(:table)) from set_config('lock_timeout', '2s', true)"
)
_READ = """
    select /* vectors.read */ chunk, embedding::real[] as numbers, cast(metadata as text) as fields from {table}
    where chunk > :after order by chunk limit :limit
"""
