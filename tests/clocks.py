"""Time that only moves when a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta


class ManualClock:
    """Sleepers wake, in order, when `advance` passes their time."""

    def __init__(self, now: datetime = datetime(2026, 11, 22, 12, tzinfo=UTC), monotonic: float = 1000.0) -> None:
        self._now = now
        self._monotonic = monotonic
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), wake))
        await wake

    def move(self, seconds: float) -> None:
        """Time passes while no task sleeps: for code without an event loop."""
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)

    async def advance(self, seconds: float) -> None:
        """Time passes; a task that wakes runs, and may sleep again, before time moves on."""
        end = self._monotonic + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, wake = heapq.heappop(self._sleepers)
            self.move(max(0.0, at - self._monotonic))
            if not wake.done():
                wake.set_result(None)
                await settle()
        self.move(max(0.0, end - self._monotonic))
        await settle()

    @property
    def sleeping(self) -> int:
        return sum(not wake.done() for _, _, wake in self._sleepers)


async def settle(rounds: int = 20) -> None:
    """Lets every task that can run do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)
