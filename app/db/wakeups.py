"""NOTIFY as a wake-up call. It carries no data: its receiver reads the table again, so a lost notification loses nothing.

It needs its own connection to the server itself. Through a pooler in transaction mode no notification arrives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.failures import DATABASE_ERRORS
from app.domain.errors import StoreUnavailable
from app.runtime.clock import Clock

RECONNECT_SECONDS = 1.0
CHECK_SECONDS = 15.0
CHECK_TIMEOUT_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Wakeup:
    """An event that one task waits for, with a time limit."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    def taken(self) -> bool:
        """Returns whether it was set, and resets it."""
        was_set = self._event.is_set()
        self._event.clear()
        return was_set

    async def wait(self, seconds: float) -> bool:
        """Returns True if it was set, False if the time is over. Resets it."""
        waiters = {asyncio.ensure_future(self._event.wait()), asyncio.ensure_future(self._clock.sleep(seconds))}
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        return self.taken()


async def listen(
    find_engine: Callable[[], Awaitable[AsyncEngine | None]], channel: str, wake: Callable[[], None], clock: Clock
) -> None:
    """Asks for the engine before every connect. Calls `wake` at every NOTIFY on `channel` and after every connect, because
    notifications may have been missed. Does not return unless there is no engine: then only polling is left."""
    while True:
        try:
            engine = await find_engine()
            if engine is None:
                return
            async with engine.connect() as connection:
                await _listen_until_lost(connection, channel, wake, clock)
        except (StoreUnavailable, *DATABASE_ERRORS) as error:
            _log.warning("not listening", extra={"channel": channel, "reason": type(error).__name__})
        await clock.sleep(RECONNECT_SECONDS)


async def _listen_until_lost(connection: AsyncConnection, channel: str, wake: Callable[[], None], clock: Clock) -> None:
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    lost = Wakeup(clock)
    driver.add_termination_listener(lambda *_: lost.set())
    try:
        await driver.add_listener(channel, lambda *_: wake())
        wake()
        while not await lost.wait(CHECK_SECONDS):
            await driver.execute("select 1", timeout=CHECK_TIMEOUT_SECONDS)
    finally:
        await connection.invalidate()
