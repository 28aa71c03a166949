"""A time limit for one await after another of a stream.

`asyncio.timeout` makes a timer each time, which for a stream of tokens costs more than reading them. Here one timer goes on over
many awaits: to set a limit is to write down when it passes, and the timer looks at that when it fires.

Nor does it blame others for our own delay. Where the event loop is slow, what is waited for may have come long ago and only wait
to be read, so the loop gets round some times more before the limit counts; once, also where one await after another is past it.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

_ROUNDS = 10
_ROUND_SECONDS = 0.005
"""At least."""


class TimeLimit:
    """`with limit.of(seconds): await …` raises TimeoutError once the time is over. One at a time; to be closed in the end."""

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
