"""Sessions that only read. With several servers, a read that meets a failed one, or one whose recovery cancels it, is repeated
on another server, on each at most once. A statement whose rows are read one after the other is not repeated after its first row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVarTuple, overload

import asyncpg
from sqlalchemy import CursorResult, Executable, ScalarResult, text
from sqlalchemy.engine.interfaces import CoreExecuteOptionsParameter
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

_REPLAYED = text("select (pg_last_wal_replay_lsn() - '0/0')\\:\\:bigint")
_REPLAY_PAUSE_SECONDS = 0.003
_CANCELLED_BY_RECOVERY = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


class ReadSession:
    """`as_of` is the moment up to which the session shows everything; None if that is the server's own time."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.as_of: datetime | None = None
        self._connection: AsyncConnection | None = connection

    @overload
    async def execute(self, statement: TypedReturnsRows[*Columns], parameters: Parameters = None) -> CursorResult[*Columns]: ...

    @overload
    async def execute(self, statement: Executable, parameters: Parameters = None) -> CursorResult[*AnyRow]: ...

    async def execute(self, statement: Executable, parameters: Parameters = None) -> CursorResult[*AnyRow]:
        assert self._connection is not None
        return await self._connection.execute(statement, parameters)

    async def scalars(self, statement: Executable, parameters: Parameters = None) -> ScalarResult[Any]:
        return (await self.execute(statement, parameters)).scalars()

    def stream(
        self, statement: Executable, *, execution_options: CoreExecuteOptionsParameter
    ) -> AbstractAsyncContextManager[AsyncResult[*AnyRow]]:
        """Rows as the server gives them."""
        assert self._connection is not None
        return self._connection.stream(statement, execution_options=execution_options)


class RepeatingReadSession(ReadSession):
    """Connects with its first statement. Close it. The watch ends what runs on a server that stalls. On another server, the
    earlier statements of the session are run again first, because they may be settings."""

    def __init__(self, watch: ServerWatch, max_staleness: timedelta, position: int | None, position_wait: timedelta) -> None:
        self.as_of = None
        self._watch = watch
        self._max_staleness = max_staleness
        self._position = position
        self._position_wait = position_wait.total_seconds()
        self._connection = None
        self._server: Server | None = None
        self._has_answered = False
        self._failed: set[Server] = set()
        self._done: list[tuple[Executable, Parameters]] = []

    async def execute(self, statement: Executable, parameters: Parameters = None) -> CursorResult[*AnyRow]:
        while True:
            try:
                result = await self._execute(statement, parameters)
                break
            except DATABASE_ERRORS as error:
                await self._leave(error)
        self._count_answer()
        self._done.append((statement, parameters))
        return result

    @asynccontextmanager
    async def stream(
        self, statement: Executable, *, execution_options: CoreExecuteOptionsParameter
    ) -> AsyncIterator[AsyncResult[*AnyRow]]:
        async with AsyncExitStack() as stack:
            while True:
                try:
                    context = (await self._connect()).stream(statement, execution_options=execution_options)
                    result = await stack.enter_async_context(context)
                    break
                except DATABASE_ERRORS as error:
                    await self._leave(error)
            self._count_answer()
            try:
                yield result
            except DATABASE_ERRORS as error:
                if self._server is not None and _shows_failure(error):
                    self._watch.doubt(self._server)
                if self._is_cancelled_by_recovery(error) or isinstance(error, asyncpg.InterfaceError):  # on a closed connection
                    raise StoreUnavailable("PostgreSQL") from error
                raise

    async def close(self) -> None:
        """Raises nothing: a connection that was lost has nothing left to end."""
        connection, self._connection, server, self._server = self._connection, None, self._server, None
        if server is not None:
            server.reads -= 1
        if connection is not None:
            with suppress(*DATABASE_ERRORS):
                await connection.__aexit__(None, None, None)

    async def _execute(self, statement: Executable, parameters: Parameters) -> CursorResult[*AnyRow]:
        connection = self._connection or await self._connect()
        return await connection.execute(statement, parameters)

    async def _connect(self) -> AsyncConnection:
        if self._connection is None:
            server = self._server or self._choose()
            self._connection = await server.engine.connect()
            if not await self._has_replayed(server, self._connection):
                await self.close()
                server = self._use(self._watch.servers.known_primary())
                self._connection = await server.engine.connect()
            for statement, parameters in self._done:
                await self._connection.execute(statement, parameters)
        return self._connection

    def _is_cancelled_by_recovery(self, error: BaseException) -> bool:
        """A read that recovery cancels has met a server that cannot answer it now."""
        return isinstance(driver_error(error), _CANCELLED_BY_RECOVERY) and self._server is not self._watch.servers.primary

    def _choose(self) -> Server:
        """Raises StoreUnavailable if no server is left."""
        servers = self._watch.servers
        server = servers.choose_reader(self._max_staleness, self._position, self._failed)
        if server is None:
            raise StoreUnavailable("PostgreSQL")
        return self._use(server)

    def _use(self, server: Server) -> Server:
        servers = self._watch.servers
        server.reads += 1
        self._server, self._has_answered = server, False
        self.as_of = None if server is servers.primary else server.as_of
        return server

    def _count_answer(self) -> None:
        if self._server is not None and not self._has_answered:
            self._has_answered = True
            self._server.answered[self._server.role] += 1

    async def _has_replayed(self, server: Server, connection: AsyncConnection) -> bool:
        """Waits a moment for a replica that has not replayed the position, if there is a primary to go to instead."""
        primary, position = self._watch.servers.primary, self._position or 0
        if server.replayed >= position or server is primary or primary is None or primary in self._failed:
            return True
        loop = asyncio.get_running_loop()
        until = loop.time() + self._position_wait
        while True:
            replayed: int = (await connection.execute(_REPLAYED)).scalar_one()
            server.replayed = max(server.replayed, replayed)
            if replayed >= position:
                return True
            if loop.time() >= until:
                return self._watch.servers.primary is None
            await asyncio.sleep(_REPLAY_PAUSE_SECONDS)

    async def _leave(self, error: BaseException) -> None:
        """Gives the server up, so that the statement is repeated on another one. Raises the error if it must not be. After a
        first result, the other server must show at least as much as this one."""
        server, connection = self._server, self._connection
        if server is None or not self._may_be_repeated(error):
            raise error
        self._failed.add(server)
        if self._done and server.state is not None:
            self._position = max(self._position or 0, server.state.position)
        if _shows_failure(error):
            self._watch.doubt(server)
            if connection is not None:
                await connection.invalidate()
        await self.close()

    def _may_be_repeated(self, error: BaseException) -> bool:
        """Whatever fails while connecting concerns that server alone. A statement that took too long would do so elsewhere."""
        cause = driver_error(error)
        if self._connection is None:
            return True
        if self._is_cancelled_by_recovery(error):
            return True
        return is_unavailable(error) and not isinstance(cause, asyncpg.QueryCanceledError)


def was_cancelled_by_recovery(error: StoreUnavailable) -> bool:
    return error.__cause__ is not None and isinstance(driver_error(error.__cause__), _CANCELLED_BY_RECOVERY)


def _shows_failure(error: BaseException) -> bool:
    return not isinstance(error, PoolTimeout) and not isinstance(driver_error(error), _CANCELLED_BY_RECOVERY)
