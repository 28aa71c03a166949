"""Streams of this process that make an answer which others wait for. Those who also stream follow them live.

A stream is followed only once something of its answer has been shown. Until then its end can still be hidden from those who
wait, as a failure of its own caller has to be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from app.cache.keys import EntryKey


class LiveAnswer(Protocol):
    async def has_content(self) -> None:
        """Returns when something of the answer has been shown."""
        ...


Live = TypeVar("Live", bound=LiveAnswer)


class LiveAnswers(Generic[Live]):
    def __init__(self) -> None:
        self._leaders: dict[EntryKey, asyncio.Future[Live]] = {}

    @contextmanager
    def leading(self, key: EntryKey) -> Iterator[None]:
        """While the block runs, others wait for the answer of this caller."""
        leader: asyncio.Future[Live] = asyncio.get_running_loop().create_future()
        self._leaders[key] = leader
        try:
            yield
        finally:
            leader.cancel()
            if self._leaders.get(key) is leader:
                del self._leaders[key]

    def began(self, key: EntryKey, answer: Live) -> None:
        """Call it when a stream begins to make the answer."""
        leader = self._leaders.get(key)
        if leader is not None and not leader.done():
            leader.set_result(answer)

    async def first_content(self, key: EntryKey, ended: asyncio.Future[Any], seconds: float) -> Live | None:
        """Returns the stream when it has shown something. None if there is none, if its call has `ended` before, or after so many
        seconds."""
        leader = self._leaders.get(key)
        if leader is None:
            return None
        waiting = asyncio.create_task(_shown(leader))
        either: tuple[asyncio.Future[Any], ...] = (ended, waiting)
        try:
            await asyncio.wait(either, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
            is_shown = waiting.done() and not waiting.cancelled() and not ended.done()
            return waiting.result() if is_shown else None
        finally:
            waiting.cancel()


async def _shown(leader: asyncio.Future[Live]) -> Live:
    answer = await asyncio.shield(leader)
    await answer.has_content()
    return answer
