"""How connections are opened. An opening runs to its end, also if its caller is cancelled: asyncpg leaves an error that is
never read when it is cancelled between the socket and the first answer, and asyncio reports such an error as a fault."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, TypeAlias
from weakref import WeakSet

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Openings:
    """Opens connections for an engine. A connection that is no longer waited for is closed as soon as it is open."""

    def __init__(self) -> None:
        self._abandoned: set[asyncio.Task[None]] = set()
        self._open: WeakSet[Connection] = WeakSet()
        self._retired: WeakSet[Connection] = WeakSet()

    async def open(self, *args: Any, **options: Any) -> Connection:
        """Takes the arguments of `asyncpg.connect`, and raises its errors."""
        opening = asyncio.ensure_future(asyncpg.connect(*args, **options))
        try:
            connection: Connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            closing = asyncio.ensure_future(_close(opening))
            self._abandoned.add(closing)
            closing.add_done_callback(self._abandoned.discard)
            raise
        self._open.add(connection)
        return connection

    def retire(self) -> None:
        """Every connection that is open now is used to the end of its session and not taken from a pool again."""
        self._retired.update(self._open)

    def has_retired(self, connection: object) -> bool:
        return bool(self._retired) and connection in self._retired

    def terminate(self) -> None:
        """Breaks every connection that is open, at once. A statement that runs on one ends with an error."""
        for connection in tuple(self._open):
            connection.terminate()

    async def close(self) -> None:
        """Waits for what is still being opened, at most as long as a connection may take to open."""
        await asyncio.gather(*self._abandoned)


async def _close(opening: asyncio.Future[Connection]) -> None:
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        await (await opening).close()
