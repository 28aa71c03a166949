"""A transaction that writes and a snapshot that only reads are different types: a function that reads asks for the first
that fits, and sending a write to a replica does not type-check.

A lost connection is StoreUnavailable, wherever it is noticed, and so is a server that has stalled.
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
        """One snapshot; `primary` where the caller must see its own writes. `shared` where a generator holds it while others run:
        only the time of each statement is bounded then, because a limit on the session would interrupt other code."""
        engine = self.engines.primary if primary else self.engines.reader()
        detector = nullcontext() if shared else self.engines.stall_detectors[engine].bounded()
        async with _translating(), detector, engine.connect() as connection:
            yield ReadSession(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[WriteSession]:
        """One transaction on the primary: committed at the end, rolled back when an error leaves it."""
        primary = self.engines.primary
        async with _translating(), self.engines.stall_detectors[primary].bounded(), primary.begin() as connection:
            yield WriteSession(connection)

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[WriteSession]:
        """Each statement is a transaction on the primary by itself: a process that stalls in between holds no lock."""
        primary = self.engines.primary
        async with _translating(), self.engines.stall_detectors[primary].bounded(), primary.connect() as connection:
            yield WriteSession(await connection.execution_options(isolation_level="AUTOCOMMIT"))
