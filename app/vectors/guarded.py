"""A store with a time limit and a breaker, so one that is away slows no caller down. Each call is measured."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar
from uuid import UUID

from app.domain.errors import StoreUnavailable
from app.runtime.clock import Clock
from app.runtime.outage_breaker import OutageBreaker
from app.vectors.filters import Filter
from app.vectors.metrics import VectorMetrics
from app.vectors.store import Hit, Index, IndexedChunk, StoreBusy, Vector, VectorStore

_FIRST_PAUSE_SECONDS = 1.0
_MAX_PAUSE_SECONDS = 10.0
_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class GuardedStore:
    """`name` is the configured name; errors and metrics carry it."""

    def __init__(self, name: str, store: VectorStore, clock: Clock, metrics: VectorMetrics, *, seconds: float) -> None:
        """`seconds` is the longest that a search, a check or one request of a write may take."""
        self.name = name
        self._store = store
        self._clock = clock
        self._metrics = metrics
        metrics.begin(name)
        self._seconds = seconds
        self._breaker = OutageBreaker(clock, first_pause=_FIRST_PAUSE_SECONDS, max_pause=_MAX_PAUSE_SECONDS)

    @property
    def available(self) -> bool:
        """False while every call is refused at once."""
        return self._breaker.available

    @property
    def max_dimensions(self) -> int:
        return self._store.max_dimensions

    async def create(self, index: Index) -> None:
        await self._call("create", self._store.create(index))

    async def drop(self, index: Index) -> None:
        await self._call("drop", self._store.drop(index))

    async def upsert(self, index: Index, chunks: Sequence[IndexedChunk]) -> None:
        await self._call("upsert", self._store.upsert(index, chunks), requests=1 + len(chunks) // 100)

    async def delete(self, index: Index, keys: Sequence[UUID]) -> None:
        await self._call("delete", self._store.delete(index, keys), requests=1 + len(keys) // 100)

    async def search(self, index: Index, vector: Vector, count: int, where: Filter | None = None) -> list[Hit]:
        return await self._call("search", self._store.search(index, vector, count, where))

    async def read(self, index: Index) -> AsyncIterator[Sequence[IndexedChunk]]:
        pages = self._store.read(index)
        while True:
            page = await self._call("read", anext(pages, None))
            if page is None:
                return
            yield page

    async def check(self) -> None:
        await self._call("check", self._store.check())

    async def close(self) -> None:
        await self._store.close()

    async def _call(self, operation: str, work: Awaitable[Result], requests: int = 1) -> Result:
        """Raises StoreUnavailable, also if the time is over, and at once if the store is known to be away."""
        task = asyncio.ensure_future(work)
        if not self._breaker.admit():
            task.cancel()
            raise StoreUnavailable(self.name)
        begun = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._seconds * requests):
                result = await task
        except StoreBusy:
            raise
        except (StoreUnavailable, TimeoutError) as error:
            self._failed(operation, error)
            raise StoreUnavailable(self.name) from error
        finally:
            self._metrics.seconds.labels(self.name, operation).observe(self._clock.monotonic() - begun)
        if self._breaker.succeeded():
            _log.warning("a vector store answers again", extra={"store": self.name})
        return result

    def _failed(self, operation: str, error: Exception) -> None:
        self._metrics.failures.labels(self.name, operation).inc()
        if self._breaker.failed():
            _log.warning("a vector store does not answer", extra={"store": self.name, "reason": str(error) or "time limit"})
