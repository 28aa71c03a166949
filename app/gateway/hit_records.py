"""The usage records of answers from the cache, written after the answers and in batches.

Invariant: a record is written at most `MAX_DELAY_SECONDS` after its answer, as long as PostgreSQL answers, and when the process
stops all of them are. A process that is killed may lose the last ones. They contain no cost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from app.costs.holds import Settlement
from app.runtime.clock import Clock
from app.runtime.tasks import create_shared_task

DELAY_SECONDS: Final = 0.5
MAX_DELAY_SECONDS: Final = 1.0
MAX_WAITING: Final = 250
"""With more, the batch is written at once, so that no batch keeps the settlements of paid calls waiting for long."""
_log = logging.getLogger(__name__)


class HitRecords:
    def __init__(self, settle_all: Callable[[Sequence[Settlement]], Awaitable[int]], clock: Clock) -> None:
        """`settle_all` is that of the ledger."""
        self._settle_all = settle_all
        self._clock = clock
        self._waiting: list[Settlement] = []
        self._pause: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Task[None]] = set()

    def add(self, settlement: Settlement) -> None:
        """Returns at once. The record is written later."""
        self._waiting.append(settlement)
        if len(self._waiting) >= MAX_WAITING:
            self._write()
        elif self._pause is None:
            self._pause = create_shared_task(self._write_later())

    async def flush(self) -> None:
        """Returns when every record is written, or PostgreSQL has not answered for too long."""
        self._write()
        while self._writing:
            await asyncio.wait(self._writing)

    async def _write_later(self) -> None:
        await self._clock.sleep(DELAY_SECONDS)
        self._pause = None
        self._write()

    def _write(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._waiting:
            batch, self._waiting = self._waiting, []
            task = asyncio.create_task(self._settle(batch))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _settle(self, batch: list[Settlement]) -> None:
        lost = await self._settle_all(batch)
        if lost:
            _log.warning("usage records of cached answers were not written", extra={"records": lost})
