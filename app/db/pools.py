"""The connections that a process keeps to one server. Waiting for one is limited in time. A caller that waits longer gets an
error and is counted, so a slow server does not collect callers without end."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from app.db.failures import DATABASE_ERRORS

_log = logging.getLogger(__name__)


@dataclass
class PoolCounts:
    """`waiting` callers have no connection yet. `refused` is how many have waited too long, ever."""

    waiting: int = 0
    refused: int = 0


class CountingPool(AsyncAdaptedQueuePool):
    """Its counts stay when an engine replaces its pool."""

    counts: PoolCounts
    _sqla_logger_namespace = "sqlalchemy.pool.CountingPool"

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]  # the arguments of its base
        self.counts = PoolCounts()

    def recreate(self) -> Self:
        made: Self = super().recreate()  # type: ignore[assignment]  # it makes one of its own class
        made.counts = self.counts
        return made

    def _do_get(self) -> ConnectionPoolEntry:
        self.counts.waiting += 1
        try:
            return super()._do_get()
        except PoolTimeout:
            self.counts.refused += 1
            raise
        finally:
            self.counts.waiting -= 1


@dataclass(frozen=True, slots=True)
class PoolFigures:
    in_use: int
    idle: int
    waiting: int
    refused: int


def figures_of(engine: AsyncEngine) -> PoolFigures:
    pool = engine.sync_engine.pool
    assert isinstance(pool, CountingPool)
    return PoolFigures(pool.checkedout(), pool.checkedin(), pool.counts.waiting, pool.counts.refused)


async def fill_pool(engine: AsyncEngine, connections: int) -> None:
    """Opens connections until the pool has so many. A server that is away is left for later."""
    try:
        async with AsyncExitStack() as stack:
            for _ in range(connections):
                await stack.enter_async_context(engine.connect())
    except DATABASE_ERRORS as error:
        _log.info("connections could not be opened ahead", extra={"reason": type(error).__name__})
