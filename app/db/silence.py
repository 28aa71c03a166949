"""Tells a server that stands still from one that is busy: whoever has waited a while asks it something on a new connection.

A process that is frozen keeps its connections open and says nothing on them, and a statement may rightly take half a minute. So
time alone decides nothing; any answer, also a refusal or one to somebody else, shows that the server lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.failures import DATABASE_ERRORS

LOOK_SECONDS = 2.0
ANSWER_SECONDS = 3.0


class SilenceWatch:
    """`engine` pools nothing, so that each question has a connection of its own. However many wait, one asks."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.look_seconds = LOOK_SECONDS
        self.answer_seconds = ANSWER_SECONDS
        self._engine = engine
        self._asking: asyncio.Task[bool] | None = None
        self._answered_at = float("-inf")

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """Raises TimeoutError in place of what runs inside once the server answers nobody."""
        async with asyncio.timeout(None) as limit:
            waiting = _Waiting(self, limit)
            try:
                yield
            finally:
                waiting.end()
            self._answered_at = asyncio.get_running_loop().time()

    def was_silent(self, now: float) -> bool:
        """Whether it has said nothing lately, so that it is to be asked again."""
        return now - self._answered_at >= self.look_seconds

    def ask(self) -> asyncio.Task[bool]:
        """True where the server says anything at all."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return self._asking

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._engine.dispose()

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(self.answer_seconds), self._engine.connect() as connection:
                await connection.execute(text("select 1"))
        except TimeoutError:
            return False
        except DATABASE_ERRORS:
            pass
        self._answered_at = asyncio.get_running_loop().time()
        return True


class _Waiting:
    """Ends `limit` at once when an answer fails to come."""

    def __init__(self, watch: SilenceWatch, limit: asyncio.Timeout) -> None:
        self._watch = watch
        self._limit = limit
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(watch.look_seconds, self._look)

    def end(self) -> None:
        self._ended = True
        self._next.cancel()

    def _look(self) -> None:
        if self._watch.was_silent(self._loop.time()):
            self._watch.ask().add_done_callback(self._judge)
        else:
            self._next = self._loop.call_later(self._watch.look_seconds, self._look)

    def _judge(self, asked: asyncio.Task[bool]) -> None:
        if self._ended or asked.cancelled():
            return
        if asked.result() or not self._watch.was_silent(self._loop.time()):
            self._next = self._loop.call_later(self._watch.look_seconds, self._look)
        else:
            self._limit.reschedule(self._loop.time())
