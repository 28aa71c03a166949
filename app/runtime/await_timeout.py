"""A time limit for many awaits of a stream, one after the other.

`asyncio.timeout` makes a timer each time, which costs more than reading the tokens of a stream. Here one timer serves many
awaits: setting a limit only stores its time, and the timer checks it when it fires.

The limit also allows for our own delay. If the event loop is slow, the awaited data may already have arrived and wait to be
read. So the loop turns a few more times before the limit counts. It does this once for awaits in a row that are all too late.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

_ROUNDS = 10
_ROUND_SECONDS = 0.005
"""At least this long."""


class TimeLimit:
    """`with limit.of(seconds): await …` raises TimeoutError when the time is over. Use it for one await at a time, and close it
    at the end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._fires = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._ends = 0.0
        self._rounds = 0
        self._is_over = False

    def of(self, seconds: float) -> TimeLimit:
        self._ends = self._loop.time() + seconds
        if seconds > 0:
            self._rounds = 0
        return self

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if self._timer is not None and self._fires > self._ends:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._fire_at(self._ends)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        task, self._task = self._task, None
        if not self._is_over:
            return
        self._is_over = False
        assert task is not None
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire_at(self, at: float) -> None:
        self._timer, self._fires = self._loop.call_at(at, self._look), at

    def _look(self) -> None:
        self._timer = None
        if self._task is None or self._is_over:
            return
        now = self._loop.time()
        if now < self._ends:
            self._fire_at(self._ends)
        elif self._rounds < _ROUNDS:
            self._rounds += 1
            self._fire_at(now + _ROUND_SECONDS)
        else:
            self._is_over = True
            self._task.cancel()
