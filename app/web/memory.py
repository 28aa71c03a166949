"""Returns the memory of large bodies to the system after none has come for a while.

glibc keeps freed memory, up to 64 MB in each of its arenas. After a few large bodies, a process that needs 250 MB holds 400 MB
for good. While large bodies arrive, kept memory makes them fast. Returning it takes some 10 ms in a thread, after they have
ended.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from datetime import timedelta

from app.runtime.clock import Clock
from app.runtime.tasks import create_shared_task
from app.web.capacity import Capacity, Holder, Shares

LARGE_BYTES = 4 * 1024 * 1024
REST_SECONDS = 5.0


def trim_heap() -> None:
    """With another C library than glibc, nothing is done."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class BodyCapacity(Capacity):
    """Counts bytes of bodies. Runs `trim` in a thread when fewer than LARGE_BYTES were in flight for REST_SECONDS."""

    def __init__(
        self,
        limit: int,
        retry_after: timedelta,
        clock: Clock,
        trim: Callable[[], None] = trim_heap,
        *,
        shares: Shares | None = None,
        largest: int = 1,
    ) -> None:
        super().__init__(limit, retry_after, shares, largest=largest)
        self._clock = clock
        self._trim = trim
        self._large = False
        self._resting: asyncio.Task[None] | None = None

    def take(self, holder: Holder, amount: int) -> None:
        super().take(holder, amount)
        if self.in_flight >= LARGE_BYTES:
            self._large = True
            if self._resting is None:
                self._resting = create_shared_task(self._trim_at_rest())

    async def _trim_at_rest(self) -> None:
        try:
            while self._large:
                self._large = self.in_flight >= LARGE_BYTES
                await self._clock.sleep(REST_SECONDS)
                if not self._large:
                    await asyncio.to_thread(self._trim)
        finally:
            self._resting = None
