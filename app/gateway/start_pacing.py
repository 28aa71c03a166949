"""Limits how fast calls start. If a thousand streams begin together, the running streams must still be read, and the new ones
must not time out while they connect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.runtime.clock import Clock

MAX_STARTING = 16
MAX_WAIT_SECONDS = 5.0
BUSY_SECONDS = 0.03
"""A turn of the event loop that takes longer means that the loop has too much work."""


class StartPacing:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._starting = asyncio.Semaphore(MAX_STARTING)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Enters when few other calls are starting and the event loop is not busy. Waits for a busy event loop at most
        MAX_WAIT_SECONDS."""
        deadline = self._clock.monotonic() + MAX_WAIT_SECONDS
        async with self._starting:
            await self._wait_for_event_loop(deadline)
            yield

    async def _wait_for_event_loop(self, deadline: float) -> None:
        before = self._clock.monotonic()
        while before < deadline:
            await asyncio.sleep(0)
            now = self._clock.monotonic()
            if now - before < BUSY_SECONDS:
                return
            before = now
