"""A transaction that writes and a snapshot that only reads are different types. A function that only reads asks for the second,
and sending a write to a replica does not type-check.

A lost connection or a stalled server is StoreUnavailable, wherever it is noticed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import NewType

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.engines import Engines
from app.db.failures import DATABASE_ERRORS, is_unavailable
from app.domain.errors import StoreUnavailable

ReadSession = NewType("ReadSession", AsyncConnection)
WriteSession = NewType("WriteSession", AsyncConnection)


@asynccontextmanager
async def _translating() -> AsyncIterator[None]:
    try:
        yield
    except DATABASE_ERRORS as error:
        if is_unavailable(error):
            raise StoreUnavailable("PostgreSQL") from error
        raise


@dataclass(frozen=True)
class Sessions:
    engines: Engines

    @asynccontextmanager
    async def read(self, *, primary: bool = False, shared: bool = False) -> AsyncIterator[ReadSession]:
        """One snapshot. Use `primary` if the caller must see its own writes. Use `shared` if a generator holds the session
        while other code runs. Then only the time of each statement is limited, because a limit on the session would interrupt
        other code."""
        engine = self.engines.primary if primary else self.engines.reader()
        detector = nullcontext() if shared else self.engines.stall_detectors[engine].bounded()
        async with _translating(), detector, engine.connect() as connection:
            yield ReadSession(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[WriteSession]:
        """One transaction on the primary. It is committed at the end, and rolled back on an error."""
        primary = self.engines.primary
        async with _translating(), self.engines.stall_detectors[primary].bounded(), primary.begin() as connection:
            yield WriteSession(connection)

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[WriteSession]:
        """Each statement is its own transaction on the primary, so a process that stalls in between holds no lock."""
        primary = self.engines.primary
        async with _translating(), self.engines.stall_detectors[primary].bounded(), primary.connect() as connection:
            yield WriteSession(await connection.execution_options(isolation_level="AUTOCOMMIT"))
