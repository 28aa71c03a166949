"""Distinguishes a stalled server from a busy one. After some time without an answer, the server is asked on a new connection.

A process that is frozen keeps its connections open and sends nothing on them, and a statement may legitimately take half a
minute. So time alone proves nothing. Any answer shows that the server lives, also a refusal or an answer to another caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.failures import DATABASE_ERRORS
from app.runtime.tasks import create_shared_task

LOOK_SECONDS = 2.0
ANSWER_SECONDS = 3.0


class StallDetector:
    """`engine` has no pool, so each question uses its own connection. Only one question is asked at a time, for all that wait."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.look_seconds = LOOK_SECONDS
        self.answer_seconds = ANSWER_SECONDS
        self._engine = engine
        self._asking: asyncio.Task[bool] | None = None
        self._answered_at = float("-inf")

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """Cancels what runs inside and raises TimeoutError if the server answers no question any more."""
        async with asyncio.timeout(None) as limit:
            waiting = _Waiting(self, limit)
            try:
                yield
            finally:
                waiting.end()
            self._answered_at = asyncio.get_running_loop().time()

    def was_quiet(self, now: float) -> bool:
        """Whether the server has been silent long enough to be asked again."""
        return now - self._answered_at >= self.look_seconds

    def ask(self) -> asyncio.Task[bool]:
        """The task's result is True if the server answers anything."""
        if self._asking is None or self._asking.done():
            self._asking = create_shared_task(self._ask())
        return self._asking

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._engine.dispose()

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(self.answer_seconds), self._engine.connect() as connection:
                await connection.execute(text("select /* stall.question */ 1"))
        except TimeoutError:
            return False
        except DATABASE_ERRORS:
            pass
        self._answered_at = asyncio.get_running_loop().time()
        return True


class _Waiting:
    """Ends `limit` at once if an answer does not come."""

    def __init__(self, detector: StallDetector, limit: asyncio.Timeout) -> None:
        self._detector = detector
        self._limit = limit
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(detector.look_seconds, self._look)

    def end(self) -> None:
        self._ended = True
        self._next.cancel()

    def _look(self) -> None:
        if self._detector.was_quiet(self._loop.time()):
            self._detector.ask().add_done_callback(self._judge)
        else:
            self._next = self._loop.call_later(self._detector.look_seconds, self._look)

    def _judge(self, asked: asyncio.Task[bool]) -> None:
        if self._ended or asked.cancelled():
            return
        if asked.result() or not self._detector.was_quiet(self._loop.time()):
            self._next = self._loop.call_later(self._detector.look_seconds, self._look)
        else:
            self._limit.reschedule(self._loop.time())
