"""How a process ends. It is asked to stop (`begin`) and still serves for a while. Then it takes no new work and its streams end
(`close`), and what runs has the grace period. `cut_short` ends the waiting at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

_MIN_SECONDS = 1.0
"""The time that is left even after the grace period, because running calls must still be settled."""


class Drain:
    def __init__(self, grace_seconds: float, monotonic: Callable[[], float]) -> None:
        self._grace_seconds = grace_seconds
        self._monotonic = monotonic
        self._until = 0.0
        self._cut_short = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self.begun = False
        self.closing = False

    def on_close(self, listener: Callable[[], None]) -> None:
        """Calls it when streams have to end. It must not raise."""
        self._listeners.append(listener)

    def begin(self) -> None:
        self.begun = True

    def close(self) -> None:
        """The grace period begins. A second call changes nothing."""
        if self.closing:
            return
        self.begun = self.closing = True
        self._until = self._monotonic() + self._grace_seconds
        for listener in self._listeners:
            listener()

    def cut_short(self) -> None:
        """Leaves running work only the second that its settlement needs."""
        self._until = 0.0
        self._cut_short.set()

    @property
    def left(self) -> float:
        """Seconds; one second if the grace period has not begun or is over."""
        return max(_MIN_SECONDS, self._until - self._monotonic())

    async def wait(self, work: Iterable[asyncio.Future[Any]]) -> None:
        """Returns when all of it has ended, with any result, or when no time is left."""
        pending = asyncio.ensure_future(_all(tuple(work)))
        cut = asyncio.ensure_future(self._cut_short.wait())
        try:
            await asyncio.wait({pending, cut}, timeout=self.left, return_when=asyncio.FIRST_COMPLETED)
            if cut.done():
                await asyncio.wait({pending}, timeout=_MIN_SECONDS)
        finally:
            for task in (pending, cut):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def _all(work: tuple[asyncio.Future[Any], ...]) -> None:
    if work:
        await asyncio.wait(work)
