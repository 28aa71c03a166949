"""One store of each kind, opened for a test, and what tests put into it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Literal, TypeAlias, get_args
from uuid import UUID, uuid4

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.settings import DatabaseSettings
from app.vectors.chroma import Chroma
from app.vectors.filters import Filter
from app.vectors.pgvector import PgVector
from app.vectors.pinecone import Pinecone
from app.vectors.store import Distance, Hit, Index, IndexedChunk, Vector, VectorStore
from app.vectors.vector import vector_of

StoreKind: TypeAlias = Literal["pgvector", "chroma", "pinecone"]
KINDS: tuple[StoreKind, ...] = get_args(StoreKind)
SECONDS = 20.0


@asynccontextmanager
async def opened(kind: StoreKind, address: str) -> AsyncIterator[VectorStore]:
    async with AsyncExitStack() as stack:
        store = await _open(kind, address, stack)
        stack.push_async_callback(store.close)
        yield store


async def _open(kind: StoreKind, address: str, stack: AsyncExitStack) -> VectorStore:
    match kind:
        case "pgvector":
            engines = build_engines(address, [], DatabaseSettings())
            stack.push_async_callback(engines.close)
            return PgVector(Sessions(engines))
        case "chroma":
            return Chroma("chroma", address, SECONDS)
        case "pinecone":
            return Pinecone("pinecone", "any", address, "greenlang", SECONDS)


class SyncStore:
    """A store for tests that hypothesis calls."""

    def __init__(self, runner: asyncio.Runner, store: VectorStore) -> None:
        self._runner = runner
        self._store = store

    def create(self, index: Index) -> None:
        self._runner.run(self._store.create(index))

    def drop(self, index: Index) -> None:
        self._runner.run(self._store.drop(index))

    def upsert(self, index: Index, chunks: Sequence[IndexedChunk]) -> None:
        self._runner.run(self._store.upsert(index, chunks))

    def delete(self, index: Index, keys: Sequence[UUID]) -> None:
        self._runner.run(self._store.delete(index, keys))

    def search(self, index: Index, vector: Vector, count: int, where: Filter | None = None) -> list[Hit]:
        return self._runner.run(self._store.search(index, vector, count, where))

    def read(self, index: Index) -> list[IndexedChunk]:
        return self._runner.run(everything(self._store, index))


@contextmanager
def opened_sync(kind: StoreKind, address: str) -> Iterator[SyncStore]:
    with asyncio.Runner() as runner:
        opening = opened(kind, address)
        store = runner.run(opening.__aenter__())
        try:
            yield SyncStore(runner, store)
        finally:
            runner.run(opening.__aexit__(None, None, None))


async def everything(store: VectorStore, index: Index) -> list[IndexedChunk]:
    """By key."""
    return sorted([chunk async for page in store.read(index) for chunk in page], key=lambda chunk: chunk.key)


def index_of(dimensions: int = 8, distance: Distance = Distance.COSINE, tenant: str = "acme") -> Index:
    return Index(uuid4(), tenant, dimensions, distance)


def random_chunks(count: int, dimensions: int = 8, seed: int = 7) -> list[IndexedChunk]:
    """`rare` has 100 values, `common` ten."""
    chance = random.Random(seed)
    return [
        IndexedChunk(
            UUID(int=number + 1),
            vector_of(chance.gauss(0, 1) for _ in range(dimensions)),
            {"rare": number % 100, "common": number % 10, "word": f"w{number % 100:02}"},
        )
        for number in range(count)
    ]
