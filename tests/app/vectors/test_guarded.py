"""A store that fails, hangs or is busy, as its callers notice it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from app.domain.errors import StoreUnavailable
from app.vectors.filters import Filter
from app.vectors.guarded import GuardedStore
from app.vectors.metrics import VectorMetrics
from app.vectors.store import Distance, Hit, Index, IndexedChunk, StoreBusy, Vector
from app.vectors.vector import vector_of
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio
INDEX = Index(UUID(int=1), "acme", 2, Distance.COSINE)
VECTOR = vector_of([1.0, 0.0])


class Scripted:
    """Raises `fails` from every call if it is set, and answers nothing while it `hangs`."""

    max_dimensions = 10

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.hangs = False
        self.calls = 0

    async def _answer(self) -> None:
        self.calls += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails

    async def create(self, index: Index) -> None:
        await self._answer()

    async def drop(self, index: Index) -> None:
        await self._answer()

    async def upsert(self, index: Index, chunks: Sequence[IndexedChunk]) -> None:
        await self._answer()

    async def delete(self, index: Index, keys: Sequence[UUID]) -> None:
        await self._answer()

    async def search(self, index: Index, vector: Vector, count: int, where: Filter | None = None) -> list[Hit]:
        await self._answer()
        return [Hit(UUID(int=5), 1.0)]

    async def read(self, index: Index) -> AsyncIterator[Sequence[IndexedChunk]]:
        await self._answer()
        yield [IndexedChunk(UUID(int=5), VECTOR, {})]

    async def check(self) -> None:
        await self._answer()

    async def close(self) -> None:
        return


class Guarding:
    def __init__(self, seconds: float = 10.0) -> None:
        self.store, self.clock, self.registry = Scripted(), ManualClock(), CollectorRegistry()
        self.guarded = GuardedStore("chroma", self.store, self.clock, VectorMetrics(self.registry), seconds=seconds)

    async def fail(self, times: int) -> None:
        for _ in range(times):
            with pytest.raises(StoreUnavailable, match="chroma"):
                await self.guarded.search(INDEX, VECTOR, 1)


async def test_a_store_that_fails_three_times_is_asked_once_a_pause() -> None:
    guarding = Guarding()
    guarding.store.fails = StoreUnavailable("inner")
    await guarding.fail(5)
    assert guarding.store.calls == 3
    assert [guarding.guarded.available] == [False]
    guarding.clock.move(1.01)
    await guarding.fail(2)
    assert guarding.store.calls == 4
    guarding.store.fails = None
    guarding.clock.move(2.01)
    assert [hit.key for hit in await guarding.guarded.search(INDEX, VECTOR, 1)] == [UUID(int=5)]
    assert guarding.guarded.available
    failed = guarding.registry.get_sample_value(
        "greenlang_vector_store_failures_total", {"store": "chroma", "operation": "search"}
    )
    assert failed == 4


async def test_a_store_that_hangs_is_unavailable_after_its_time() -> None:
    guarding = Guarding(seconds=0.01)
    guarding.store.hangs = True
    await guarding.fail(1)


async def test_a_busy_store_takes_searches() -> None:
    guarding = Guarding()
    guarding.store.fails = StoreBusy("inner")
    for _ in range(5):
        with pytest.raises(StoreBusy):
            await guarding.guarded.upsert(INDEX, [])
    guarding.store.fails = None
    assert await guarding.guarded.search(INDEX, VECTOR, 1)


async def test_reading_ends_with_the_store() -> None:
    guarding = Guarding()
    assert [len(page) async for page in guarding.guarded.read(INDEX)] == [1]
    guarding.store.fails = StoreUnavailable("inner")
    with pytest.raises(StoreUnavailable, match="chroma"):
        await anext(guarding.guarded.read(INDEX))
