"""The stores' own clients, which `benchmarks.vectors` compares the API with. Each writes and searches what the API does."""

from __future__ import annotations

import json
from array import array
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeAlias
from uuid import UUID, uuid4

import asyncpg

from app.embedded.addresses import DATABASE_URL

Row: TypeAlias = tuple[UUID, list[float], Mapping[str, int]]


class OwnClient(Protocol):
    async def upsert(self, rows: Sequence[Row]) -> None:
        """Writes them in the way that the client's guide shows for many rows."""

    async def search(self, vector: Sequence[float], count: int, field: str, value: int) -> int:
        """Returns how many hits there are."""


OpenClient: TypeAlias = Callable[[Path, int], AbstractAsyncContextManager[OwnClient]]


class PgVectorClient:
    def __init__(self, connection: asyncpg.Connection, table: str) -> None:
        self._connection = connection
        self._table = table

    async def upsert(self, rows: Sequence[Row]) -> None:
        await self._connection.executemany(
            f"insert into {self._table} (chunk, embedding, metadata) values ($1, $2, $3)"
            " on conflict (chunk) do update set embedding = excluded.embedding, metadata = excluded.metadata",
            [(key, vector, json.dumps(metadata)) for key, vector, metadata in rows],
        )

    async def search(self, vector: Sequence[float], count: int, field: str, value: int) -> int:
        rows = await self._connection.fetch(
            f"select chunk, embedding operator(vectors.<=>) $1 as distance from {self._table}"
            " where metadata->$3 = $4::jsonb order by distance limit $2",
            vector,
            count,
            field,
            json.dumps(value),
        )
        return len(rows)


@asynccontextmanager
async def open_pgvector(data_dir: Path, dimensions: int) -> AsyncIterator[OwnClient]:
    """asyncpg with the binary form of vectors, as the package pgvector registers it."""
    connection = await asyncpg.connect((data_dir / DATABASE_URL).read_text(encoding="utf-8").strip())
    try:
        await connection.set_type_codec("vector", schema="vectors", encoder=_packed, decoder=bytes, format="binary")
        key = uuid4()
        await connection.execute("select make_vector_table($1, $2)", key, dimensions)
        yield PgVectorClient(connection, f"vectors.c_{key.hex}")
        await connection.execute("select drop_vector_table($1)", key)
    finally:
        await connection.close()


def _packed(vector: Sequence[float]) -> bytes:
    floats = array("f", vector)
    floats.byteswap()
    return len(vector).to_bytes(2, "big") + b"\0\0" + floats.tobytes()


CLIENTS: Mapping[str, OpenClient] = {"pgvector": open_pgvector}
