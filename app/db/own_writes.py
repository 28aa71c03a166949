"""A key sees what it has written, in whichever process it reads.

After a commit for a key, the position of the primary is kept for the key in Redis for a short life. After it, every replica that
answers reads has replayed the position. A read for that key goes to a replica that has replayed it. If Redis has failed, no
process knows who has written. Then every key that may write reads the primary for as long.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.failures import DATABASE_ERRORS
from app.db.servers import NOWHERE, Servers
from app.domain.errors import StoreUnavailable
from app.runtime.clock import Clock

MARGIN: Final = timedelta(seconds=5)
POSITION: Final = """select ((case
    when current_setting('synchronous_commit') = 'off' then pg_current_wal_insert_lsn() else pg_current_wal_flush_lsn()
end) - '0/0'::pg_lsn)::bigint"""
_POSITION: Final = text(POSITION.replace("::", "\\:\\:"))


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom the running code reads and writes. `may_write`: some of what its key may do writes."""

    key: str
    may_write: bool


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


class PositionStore(Protocol):
    """Keeps the highest position of a key. Both raise StoreUnavailable."""

    async def put(self, key: str, timeline: int, position: int, life: timedelta) -> None: ...

    async def get(self, key: str) -> tuple[int, int] | None:
        """Returns the timeline and the position."""
        ...


class OwnWrites:
    """`max_staleness` is how far behind a replica may be that answers reads."""

    def __init__(self, servers: Servers, store: PositionStore, clock: Clock, max_staleness: timedelta) -> None:
        self._servers = servers
        self._store = store
        self._clock = clock
        self._life = max_staleness + MARGIN
        self._distrusted_until = float("-inf")

    async def note(self, position: int | None) -> None:
        """Call it after a commit for the caller. None: the position is not known."""
        caller = CALLER.get()
        if caller is None:
            return
        kept = NOWHERE if position is None else position
        try:
            await self._store.put(caller.key, self._servers.timeline, kept, self._life)
        except StoreUnavailable:
            self._distrust()

    async def note_commit_on(self, connection: AsyncConnection) -> None:
        """Call it on the connection that has committed for the caller. It raises nothing, because the commit is done."""
        if CALLER.get() is None:
            return
        try:
            position: int | None = (await connection.execute(_POSITION)).scalar_one()
        except DATABASE_ERRORS:
            position = None
        await self.note(position)

    async def needed(self) -> int | None:
        """The position that a replica must have replayed to answer the caller. None if any will do."""
        caller = CALLER.get()
        if caller is None or not caller.may_write:
            return None
        if self._clock.monotonic() < self._distrusted_until:
            return NOWHERE
        try:
            kept = await self._store.get(caller.key)
        except StoreUnavailable:
            self._distrust()
            return NOWHERE
        if kept is None:
            return None
        timeline, position = kept
        forked_at = self._servers.forked_at
        if timeline == self._servers.timeline or (forked_at is not None and position <= forked_at):
            return position
        return NOWHERE

    def _distrust(self) -> None:
        self._distrusted_until = self._clock.monotonic() + self._life.total_seconds()
