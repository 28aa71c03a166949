"""Sessions that only read. With several servers, a read that meets a failed one, or one whose recovery cancels it, is repeated
on another server once. A statement whose rows are read one after the other is not repeated after its first row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVarTuple, Unpack, overload

import asyncpg
from sqlalchemy import CursorResult, Executable
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncResult
from sqlalchemy.sql.selectable import TypedReturnsRows

from app.db.failures import DATABASE_ERRORS, driver_error, is_unavailable
from app.db.server_watch import ServerWatch
from app.db.servers import Server
from app.domain.errors import StoreUnavailable

Columns = TypeVarTuple("Columns")
Parameters: TypeAlias = Mapping[str, object] | Sequence[Mapping[str, object]] | None
AnyRow: TypeAlias = tuple[Any, ...]
"""Any, because the columns of such a statement have no types of their own."""

_CANCELLED_BY_RECOVERY = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


class ReadSession:
    """`as_of` is the moment up to which the session shows everything; None if that is the server's own time."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.as_of: datetime | None = None
        self._connection: AsyncConnection | None = connection

    @overload
    async def execute(
        self, statement: TypedReturnsRows[Unpack[Columns]], parameters: Parameters = None
    ) -> CursorResult[Unpack[Columns]]: ...

    @overload
    async def execute(self, statement: Executable, parameters: Parameters = None) -> CursorResult[Unpack[AnyRow]]: ...

    async def execute(self, statement: Executable, parameters: Parameters = None) -> CursorResult[Unpack[AnyRow]]:
        assert self._connection is not None
        return await self._connection.execute(statement, parameters)

    def stream(self, statement: Executable, batch: int) -> AbstractAsyncContextManager[AsyncResult[Unpack[AnyRow]]]:
        """Rows as the server gives them, `batch` at a time."""
        assert self._connection is not None
        return self._connection.stream(statement, execution_options={"yield_per": batch})


class RepeatingReadSession(ReadSession):
    """Connects with its first statement. Close it. With `shared`, the time of each statement alone is limited."""

    def __init__(self, watch: ServerWatch, max_staleness: timedelta, position: int | None, *, shared: bool) -> None:
        self.as_of = None
        self._watch = watch
        self._max_staleness = max_staleness
        self._position = position
        self._shared = shared
        self._connection = None
        self._server: Server | None = None
        self._failed: Server | None = None
        self._has_given = False

    async def execute(self, statement: Executable, parameters: Parameters = None) -> CursorResult[Unpack[AnyRow]]:
        try:
            result = await self._execute(statement, parameters)
        except DATABASE_ERRORS as error:
            await self._leave(error)
            result = await self._execute(statement, parameters)
        self._has_given = True
        return result

    @asynccontextmanager
    async def stream(self, statement: Executable, batch: int) -> AsyncIterator[AsyncResult[Unpack[AnyRow]]]:
        try:
            opened = await self._open(statement, batch)
        except DATABASE_ERRORS as error:
            await self._leave(error)
            opened = await self._open(statement, batch)
        result, context = opened
        self._has_given = True
        try:
            yield result
        except DATABASE_ERRORS as error:
            if self._server is not None and _shows_failure(error):
                self._watch.doubt(self._server)
            raise
        finally:
            await context.__aexit__(None, None, None)

    async def close(self) -> None:
        connection, self._connection, server, self._server = self._connection, None, self._server, None
        if server is not None:
            server.reads -= 1
        if connection is not None:
            await connection.__aexit__(None, None, None)

    async def _execute(self, statement: Executable, parameters: Parameters) -> CursorResult[Unpack[AnyRow]]:
        server = self._server or self._choose()
        async with nullcontext() if self._shared else server.stall_detector.bounded():
            connection = self._connection or await self._connect(server)
            return await connection.execute(statement, parameters)

    async def _open(
        self, statement: Executable, batch: int
    ) -> tuple[AsyncResult[Unpack[AnyRow]], AbstractAsyncContextManager[AsyncResult[Unpack[AnyRow]]]]:
        connection = self._connection or await self._connect(self._server or self._choose())
        context = connection.stream(statement, execution_options={"yield_per": batch})
        return await context.__aenter__(), context

    def _choose(self) -> Server:
        """Raises StoreUnavailable if no server is left."""
        servers = self._watch.servers
        avoided = () if self._failed is None else (self._failed,)
        server = servers.choose_reader(self._max_staleness, self._position, avoided)
        if server is None:
            raise StoreUnavailable("PostgreSQL")
        server.reads += 1
        self._server = server
        self.as_of = None if server is servers.primary else server.as_of
        if self._has_given and server.state is not None:
            self._position = max(self._position or 0, server.state.position)
        return server

    async def _connect(self, server: Server) -> AsyncConnection:
        self._connection = await server.engine.connect()
        return self._connection

    async def _leave(self, error: BaseException) -> None:
        """Gives the server up, so that the statement is repeated on another one. Raises the error if it must not be."""
        server, connection = self._server, self._connection
        if server is None or self._failed is not None or not _may_be_repeated(error, server, self._watch, connection):
            raise error
        self._failed = server
        if self._has_given and server.state is not None:
            self._position = max(self._position or 0, server.state.position)
        if connection is not None and _shows_failure(error):
            await connection.invalidate()
        if connection is None or _shows_failure(error):
            self._watch.doubt(server)
        await self.close()


def _may_be_repeated(error: BaseException, server: Server, watch: ServerWatch, connection: AsyncConnection | None) -> bool:
    """Whatever fails while connecting concerns that server alone. A statement that took too long would do so elsewhere too."""
    cause = driver_error(error)
    if connection is None:
        return True
    if isinstance(cause, _CANCELLED_BY_RECOVERY):
        return server is not watch.servers.primary
    return is_unavailable(error) and not isinstance(cause, asyncpg.QueryCanceledError)


def _shows_failure(error: BaseException) -> bool:
    return not isinstance(error, PoolTimeout) and not isinstance(driver_error(error), _CANCELLED_BY_RECOVERY)
