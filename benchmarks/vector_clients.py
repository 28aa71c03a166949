"""The stores' own clients, which `benchmarks.vectors` compares the API with. Each writes and searches what the API does."""

from __future__ import annotations

import json
from array import array
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import chromadb
from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.config import Settings as ChromaSettings
from pinecone import AsyncPinecone
from pinecone.async_client.async_index import AsyncIndex

from app.embedded.addresses import CHROMA_URL, DATABASE_URL
from app.vectors.chroma import HNSW

PINECONE_ADDRESS = "pinecone.address"
_PINECONE_BATCH = 200
"""A request may have 2 MB."""

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


class ChromaClient:
    def __init__(self, collection: AsyncCollection) -> None:
        self._collection = collection

    async def upsert(self, rows: Sequence[Row]) -> None:
        ids, vectors = [str(key) for key, _, _ in rows], [vector for _, vector, _ in rows]
        embeddings: Any = vectors
        metadatas: Any = [dict(metadata) for _, _, metadata in rows]
        await self._collection.upsert(ids=ids, embeddings=embeddings, metadatas=metadatas)

    async def search(self, vector: Sequence[float], count: int, field: str, value: int) -> int:
        asked: Any = {field: value}
        found = await self._collection.query(query_embeddings=[vector], n_results=count, where=asked, include=["distances"])
        return len(found["ids"][0])


@asynccontextmanager
async def open_chroma(data_dir: Path, _dimensions: int) -> AsyncIterator[OwnClient]:
    """With the same graph as the store makes; the number of dimensions follows from the first vector."""
    url = urlsplit((data_dir / CHROMA_URL).read_text(encoding="utf-8").strip())
    settings = ChromaSettings(anonymized_telemetry=False)
    client = await chromadb.AsyncHttpClient(url.hostname or "", url.port or 0, settings=settings)
    configuration: Any = {"hnsw": {"space": "cosine", **HNSW}}
    name = f"own-{uuid4().hex}"
    yield ChromaClient(await client.create_collection(name, configuration=configuration, embedding_function=None))
    await client.delete_collection(name)


class PineconeClient:
    def __init__(self, index: AsyncIndex) -> None:
        self._index = index

    async def upsert(self, rows: Sequence[Row]) -> None:
        vectors: Any = [(str(key), vector, dict(metadata)) for key, vector, metadata in rows]
        await self._index.upsert(vectors=vectors, namespace="own", batch_size=_PINECONE_BATCH, show_progress=False)

    async def search(self, vector: Sequence[float], count: int, field: str, value: int) -> int:
        answer = await self._index.query(vector=list(vector), top_k=count, namespace="own", filter={field: {"$eq": value}})
        return len(answer.matches)


@asynccontextmanager
async def open_pinecone(data_dir: Path, dimensions: int) -> AsyncIterator[OwnClient]:
    """Against the simulator, whose address `benchmarks.vectors` puts beside the data directory."""
    host = (data_dir.parent / PINECONE_ADDRESS).read_text(encoding="utf-8")
    schema = {"fields": {"_values": {"type": "dense_vector", "dimension": dimensions, "metric": "cosine"}}}
    async with AsyncPinecone(api_key="any", host=host) as client:
        made = await client.indexes.create(name="own", schema=schema)
        async with await client.index(host=made.host or "") as index:
            yield PineconeClient(index)
        await client.indexes.delete("own")


CLIENTS: Mapping[str, OpenClient] = {"pgvector": open_pgvector, "chroma": open_chroma, "pinecone": open_pinecone}
