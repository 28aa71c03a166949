"""A transaction that writes and a snapshot that only reads are different types. A function that only reads asks for the second,
and sending a write to a replica does not type-check.

A lost connection or a stalled server is StoreUnavailable, wherever it is noticed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import NewType

from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.engines import Engines
from app.db.failures import DATABASE_ERRORS, is_unavailable
from app.db.own_writes import OwnWrites
from app.db.read_sessions import ReadSession, RepeatingReadSession
from app.db.servers import Server, ServerRole
from app.domain.errors import StoreBusy, StoreUnavailable

__all__ = ["ReadSession", "Sessions", "WriteSession"]

_RETRY_AFTER_MS = 1000
WriteSession = NewType("WriteSession", AsyncConnection)


NOT_DONE = "nothing was changed"
PERHAPS_DONE = "the change may be stored or not: read it again before you repeat it"


@dataclass
class _Lost:
    """What becomes of a write if the server is lost now."""

    consequence: str = NOT_DONE


@asynccontextmanager
async def _translating(lost: _Lost | None = None) -> AsyncIterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise StoreBusy("PostgreSQL", _RETRY_AFTER_MS) from error
    except DATABASE_ERRORS as error:
        _raise_if_unavailable(error, lost.consequence if lost else "")
        raise


def _raise_if_unavailable(error: BaseException, consequence: str = "") -> None:
    """Raises StoreUnavailable."""
    if is_unavailable(error):
        raise StoreUnavailable("PostgreSQL", consequence) from error


@dataclass(frozen=True)
class Sessions:
    """`max_staleness` is how far behind the primary a replica may be that answers reads. `own_write_wait` is how long a read
    waits for a replica that has what the caller has written. Without `own_writes`, reads do not see to that."""

    engines: Engines
    max_staleness: timedelta = timedelta(seconds=10)
    own_write_wait: timedelta = timedelta(milliseconds=100)
    own_writes: OwnWrites | None = None

    @asynccontextmanager
    async def read(
        self, *, primary: bool = False, shared: bool = False, max_staleness: timedelta | None = None
    ) -> AsyncIterator[ReadSession]:
        """One transaction that only reads, on a replica that is at most `max_staleness` behind, or on the primary if there is
        none. Use `primary` if the caller must see what others have just written. Use `shared` if a generator holds the session
        while other code runs. Then only the time of each statement is limited, because a limit on the session would interrupt
        other code."""
        watch = self.engines.watch
        if watch is not None and not primary:
            if not watch.has_asked:
                await watch.first_answers()
            position = None if self.own_writes is None else await self.own_writes.needed()
            staleness = self.max_staleness if max_staleness is None else max_staleness
            session = RepeatingReadSession(watch, staleness, position, self.own_write_wait)
            try:
                yield session
            except DATABASE_ERRORS as error:
                _raise_if_unavailable(error)
                raise
            finally:
                await session.close()
            return
        async with _translating():
            server = await self.engines.writer()
            detector = nullcontext() if shared else server.stall_detector.bounded()
            async with detector, server.engine.connect() as connection:
                server.answered[ServerRole.PRIMARY] += 1
                yield ReadSession(connection)

    async def value(self, statement: str, *arguments: object) -> object:
        """Returns the first column of the first row that the statement finds on the primary, None if there is none. It is one
        round trip. Raises StoreUnavailable."""
        server = await self.engines.writer()
        try:
            return await server.values.value(statement, *arguments)
        except StoreUnavailable:
            self.engines.doubt(server)
            raise

    @asynccontextmanager
    async def write(self) -> AsyncIterator[WriteSession]:
        """One transaction on the primary. It is committed at the end, and rolled back on an error. If the server is lost, the
        error says whether the transaction may have been committed."""
        async with self._writing() as (server, lost), server.engine.connect() as connection:
            async with connection.begin():
                yield WriteSession(connection)
                lost.consequence = PERHAPS_DONE
            await self._note_commit(connection)

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[WriteSession]:
        """Each statement is its own transaction on the primary, so a process that stalls in between holds no lock."""
        async with self._writing() as (server, lost), server.engine.connect() as connection:
            session = WriteSession(await connection.execution_options(isolation_level="AUTOCOMMIT"))
            lost.consequence = PERHAPS_DONE
            yield session
            await self._note_commit(session)

    async def _note_commit(self, connection: AsyncConnection) -> None:
        if self.own_writes is not None:
            await self.own_writes.note_commit_on(connection)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[tuple[Server, _Lost]]:
        lost = _Lost()
        async with _translating(lost):
            try:
                server = await self.engines.writer()
            except StoreUnavailable as error:
                raise StoreUnavailable(error.store, NOT_DONE) from error
            try:
                async with server.stall_detector.bounded():
                    yield server, lost
            except DATABASE_ERRORS as error:
                if is_unavailable(error):
                    self.engines.doubt(server)
                raise
