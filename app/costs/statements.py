"""Runs one statement at a time on its own connection. Each is a transaction, with one round trip instead of five.

A statement is repeated if the database reports a conflict with another one (serialisation, deadlock, a key that was just
taken). It is also repeated, for a limited time, while the database is away. So it must be idempotent.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.engines import Engines
from app.db.failures import DATABASE_ERRORS, is_unavailable
from app.db.own_writes import POSITION
from app.db.servers import Server
from app.domain.errors import StoreUnavailable
from app.runtime.clock import Clock

STATEMENT_SECONDS = 20.0
POSITION_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 0.5
COLLISIONS_ALLOWED = 20

_COLLISION = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError)
_log = logging.getLogger(__name__)


class Statements:
    """`max_outage` is how long the database may be away before StoreUnavailable is raised."""

    def __init__(self, engines: Engines, clock: Clock, max_outage: timedelta) -> None:
        self._engines = engines
        self._clock = clock
        self._max_outage = max_outage.total_seconds()
        self._connection: AsyncConnection | None = None
        self._driver: asyncpg.Connection[asyncpg.Record] | None = None
        self._server: Server | None = None
        self._turn = asyncio.Lock()

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Returns when the statement is committed. Any other error of the database is raised as asyncpg raises it."""
        async with self._turn:
            until = self._clock.monotonic() + self._max_outage
            pause = FIRST_PAUSE_SECONDS
            collisions = 0
            while True:
                try:
                    driver = self._driver or await self._connect(until)
                    return await self._fetch(driver, statement, arguments)
                except _COLLISION:
                    collisions += 1
                    if collisions > COLLISIONS_ALLOWED:
                        raise
                    continue
                except (StoreUnavailable, *DATABASE_ERRORS) as error:
                    if not isinstance(error, (StoreUnavailable, asyncpg.InterfaceError)) and not is_unavailable(error):
                        raise
                    await self._drop()
                    if self._clock.monotonic() + pause > until:
                        raise StoreUnavailable("PostgreSQL") from error
                    _log.warning("the ledger waits for PostgreSQL", extra={"reason": type(error).__name__})
                await self._engines.wait_for_change(pause, self._clock)
                pause = min(pause * 2, MAX_PAUSE_SECONDS)

    async def position(self) -> int | None:
        """Where the log of the primary is now, on the connection of the last statement. None if there are no replicas that it
        matters to, or it cannot be found out."""
        if self._engines.watch is None:
            return None
        async with self._turn:
            if self._driver is None:
                return None
            try:
                position: int = await self._driver.fetchval(POSITION, timeout=POSITION_SECONDS)
            except DATABASE_ERRORS:
                await self._drop()
                return None
            return position

    async def _fetch(
        self, driver: asyncpg.Connection[asyncpg.Record], statement: str, arguments: tuple[object, ...]
    ) -> list[asyncpg.Record]:
        times = self._engines.times
        started = times.now()
        try:
            return await driver.fetch(statement, *arguments, timeout=STATEMENT_SECONDS)
        finally:
            times.add(statement, started)

    async def close(self) -> None:
        async with self._turn:
            connection, self._connection, self._driver = self._connection, None, None
            if connection is not None:
                await connection.close()

    async def _connect(self, until: float) -> asyncpg.Connection[asyncpg.Record]:
        """The time is limited, because the pool tests a connection before it is used, and a stalled server does not answer."""
        async with asyncio.timeout(max(FIRST_PAUSE_SECONDS, until - self._clock.monotonic())):
            self._server = await self._engines.writer()
            self._connection = await self._server.engine.connect()
            driver: asyncpg.Connection[asyncpg.Record] | None = (await self._connection.get_raw_connection()).driver_connection
        assert driver is not None
        self._driver = driver
        return driver

    async def _drop(self) -> None:
        connection, self._connection, self._driver = self._connection, None, None
        if self._server is not None:
            self._engines.doubt(self._server)
        if connection is not None:
            await connection.invalidate()
            await connection.close()
