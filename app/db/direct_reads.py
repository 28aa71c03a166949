"""Reads one value by its key from a server in one round trip: no transaction, no test of the connection, no statement object.

A few connections are kept for it. A connection that has died since its last use is replaced once. A read waits at most
`MAX_SECONDS` for a free connection, and as long for an answer.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.failures import DATABASE_ERRORS, is_unavailable
from app.db.openings import Openings
from app.domain.errors import StoreUnavailable

MAX_CONNECTIONS: Final = 2
MAX_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Kept:
    connection: AsyncConnection
    driver: asyncpg.Connection[asyncpg.Record]


class DirectReads:
    def __init__(self, engine: AsyncEngine, openings: Openings) -> None:
        """`openings` opens the connections of `engine`."""
        self._engine = engine
        self._openings = openings
        self._idle: list[_Kept] = []
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)

    async def value(self, statement: str, *arguments: object) -> object:
        """Returns the first column of the first row, None if there is no row. Arguments are $1, $2, …. Raises
        StoreUnavailable."""
        try:
            await self._take_place()
            try:
                return await self._read(statement, arguments)
            finally:
                self._places.release()
        except DATABASE_ERRORS as error:
            if is_unavailable(error) or isinstance(error, asyncpg.InterfaceError):
                raise StoreUnavailable("PostgreSQL") from error
            raise

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().connection.close()

    async def _take_place(self) -> None:
        if self._places.locked():
            async with asyncio.timeout(MAX_SECONDS):
                await self._places.acquire()
        else:
            await self._places.acquire()

    async def _read(self, statement: str, arguments: tuple[object, ...]) -> object:
        if self._idle and self._openings.has_retired(self._idle[-1].driver):
            await self._idle.pop().connection.close()
        elif self._idle:
            with suppress(ConnectionError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
                return await self._fetch(self._idle.pop(), statement, arguments)
        return await self._fetch(await self._open(), statement, arguments)

    async def _open(self) -> _Kept:
        async with asyncio.timeout(MAX_SECONDS):
            connection = await self._engine.connect()
            driver: asyncpg.Connection[asyncpg.Record] | None = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        return _Kept(connection, driver)

    async def _fetch(self, kept: _Kept, statement: str, arguments: tuple[object, ...]) -> object:
        try:
            found: object = await kept.driver.fetchval(statement, *arguments, timeout=MAX_SECONDS)
        except BaseException:
            kept.driver.terminate()
            await kept.connection.invalidate()
            await kept.connection.close()
            raise
        self._idle.append(kept)
        return found
