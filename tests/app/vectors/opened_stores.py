"""One store of each kind, opened for a test, and what tests put into it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID, uuid4

from app.vectors.chroma import Chroma
from app.vectors.filters import Filter
from app.vectors.pinecone import Pinecone
from app.vectors.store import Distance, Hit, Index, IndexedChunk, Vector, VectorStore
from app.vectors.vector import vector_of

StoreKind: TypeAlias = Literal["chroma", "pinecone"]
KINDS: tuple[StoreKind, ...] = get_args(StoreKind)
SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class StoreAddresses:
    """`fixture` returns the value of a fixture by its name."""

    fixture: Callable[[str], Any]

    @asynccontextmanager
    async def opened(self, kind: StoreKind) -> AsyncIterator[VectorStore]:
        store = self._open(kind)
        try:
            yield store
        finally:
            await store.close()

    def _open(self, kind: StoreKind) -> VectorStore:
        if kind == "chroma":
            return Chroma("chroma", self.fixture("chroma_server").url, SECONDS)
        return Pinecone("pinecone", "any", self.fixture("pinecone").address, "greenlang", SECONDS)


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
def opened_sync(addresses: StoreAddresses, kind: StoreKind) -> Iterator[SyncStore]:
    with asyncio.Runner() as runner:
        opening = addresses.opened(kind)
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
