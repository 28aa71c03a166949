"""How long the next piece of a stream may wait for more to go with it.

A core carries a bounded number of events a second, and readers see no difference: with many streams each is looked after less
often and brings more at a time, and what the streams of a process have to do is done for all of them together.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from app.runtime.clock import Clock

MIN_WAIT, MAX_WAIT = 0.025, 0.5
"""Seconds."""
_SECONDS_PER_STREAM = 0.00025
_REMEMBERED = 8
"""Ticks."""


def waiting_seconds(streams: int, late: float = 0.0) -> float:
    """For one of so many streams that run, or are watched, at once; longer where the event loop is so many seconds late."""
    return min(MAX_WAIT, max(MIN_WAIT, streams * _SECONDS_PER_STREAM * (1.0 + late / MIN_WAIT)))


class Ticks:
    """Calls every 25 ms what is due. One timer for all costs less than one each, and what is done together can be sent together.
    Nothing ticks while nothing is due."""

    def __init__(self, clock: Clock) -> None:
        self.late = 0.0
        """By how many seconds they come late, on average over the last ticks."""
        self._clock = clock
        self._due: dict[int, list[Callable[[], object]]] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._last = -math.inf

    def soon(self, call: Callable[[], object]) -> None:
        """At once where nothing has been called for a while, else with the next tick."""
        now = self._clock.monotonic()
        if self._ticking is None and now - self._last >= MIN_WAIT:
            self._last = now
            call()
        else:
            self._put(_tick(now) + 1, call)

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """With the tick that is nearest to then, but not at once."""
        now = self._clock.monotonic()
        self._put(max(_tick(now) + 1, _tick(now + seconds)), call)

    def _put(self, tick: int, call: Callable[[], object]) -> None:
        self._due.setdefault(tick, []).append(call)
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._due:
                now = self._clock.monotonic()
                due = (_tick(now) + 1) * MIN_WAIT
                await self._clock.sleep(due - now)
                self._last = self._clock.monotonic()
                self.late += (max(0.0, self._last - due) - self.late) / _REMEMBERED
                for tick in sorted(each for each in self._due if each <= _tick(self._last)):
                    for call in self._due.pop(tick):
                        loop.call_soon(call)
        finally:
            self._ticking = None


def _tick(at: float) -> int:
    """The number of the nearest one."""
    return round(at / MIN_WAIT)
