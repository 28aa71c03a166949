"""How long the next piece of a stream may wait, so that more can be sent together with it.

A core can handle a limited number of events per second. With many streams, each is served less often and more is sent at a
time; readers do not notice. The work for all streams of a process is done together.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from app.runtime.clock import Clock
from app.runtime.tasks import create_shared_task

MIN_WAIT, MAX_WAIT = 0.025, 0.5
"""In seconds."""
_SECONDS_PER_STREAM = 0.00025
_REMEMBERED = 8
"""In ticks."""


def waiting_seconds(streams: int, late: float = 0.0) -> float:
    """The waiting time of one stream if `streams` of them run or are watched. It is longer if the event loop is `late`
    (seconds)."""
    return min(MAX_WAIT, max(MIN_WAIT, streams * _SECONDS_PER_STREAM * (1.0 + late / MIN_WAIT)))


class Ticks:
    """Calls what is due, every 25 ms. One timer for all costs less than one for each, and what is done together can be sent
    together. If nothing is due, there are no ticks."""

    def __init__(self, clock: Clock) -> None:
        self.late = 0.0
        """The delay of ticks in seconds, averaged over the last ones."""
        self._clock = clock
        self._due: dict[int, list[Callable[[], object]]] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._last = -math.inf

    def soon(self, call: Callable[[], object]) -> None:
        """Calls at once if nothing was called recently, else with the next tick."""
        now = self._clock.monotonic()
        if self._ticking is None and now - self._last >= MIN_WAIT:
            self._last = now
            call()
        else:
            self._put(_tick(now) + 1, call)

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Calls with the tick that is nearest to the end of `seconds`, but not at once."""
        now = self._clock.monotonic()
        self._put(max(_tick(now) + 1, _tick(now + seconds)), call)

    def _put(self, tick: int, call: Callable[[], object]) -> None:
        self._due.setdefault(tick, []).append(call)
        if self._ticking is None:
            self._ticking = create_shared_task(self._tick())

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
    """The number of the nearest tick."""
    return round(at / MIN_WAIT)
