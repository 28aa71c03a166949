"""How connections are opened, and with which login.

An opening runs to its end, also if its caller is cancelled: asyncpg leaves an error that is never read when it is cancelled
between the socket and the first answer, and asyncio reports such an error as a fault.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeAlias
from weakref import WeakSet

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_REFUSED = (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)
_log = logging.getLogger(__name__)


class Logins:
    """The user and the password of one server. If it refuses them after a change, the ones that it took last are tried."""

    def __init__(self, login: Mapping[str, str]) -> None:
        self._login = self._taken = login

    def change(self, login: Mapping[str, str]) -> None:
        self._login = login

    async def connect(self, *args: Any, **options: Any) -> Connection:
        """Takes the arguments of `asyncpg.connect`, and raises its errors."""
        login, taken = self._login, self._taken
        try:
            connection: Connection = await asyncpg.connect(*args, **(options | dict(login)))
        except _REFUSED:
            if login == taken:
                raise
            connection = await asyncpg.connect(*args, **(options | dict(taken)))
            _log.warning("PostgreSQL refuses the new password and takes the one before", extra={"user": taken.get("user")})
        else:
            self._taken = login
        return connection


class Openings:
    """Opens connections for an engine. A connection that is no longer waited for is closed as soon as it is open."""

    def __init__(self, logins: Logins | None = None) -> None:
        self.logins = logins or Logins({})
        self._abandoned: set[asyncio.Task[None]] = set()
        self._open: WeakSet[Connection] = WeakSet()
        self._retired: WeakSet[Connection] = WeakSet()

    async def open(self, *args: Any, logins: Logins | None = None, **options: Any) -> Connection:
        """Takes the arguments of `asyncpg.connect`, and raises its errors. The login is that of `logins`, or else of this
        object."""
        opening = asyncio.ensure_future((logins or self.logins).connect(*args, **options))
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
