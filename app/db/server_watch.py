"""Asks every server about once a second for its role, each by itself and on a connection of its own, and at once after an error.

A server that does not answer in time is asked once more on a new connection before it counts as gone, because our own process
may have stood still. Then, and when a primary is not the primary any more, its connections are ended, also those in use: a
statement on them fails and may be repeated on another server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from app.db.failures import DATABASE_ERRORS
from app.db.openings import Connection, Openings
from app.db.server_state import ask_state
from app.db.servers import Server, ServerRole, Servers
from app.runtime.tasks import end_tasks
from app.settings import DatabaseSettings

ASK_SECONDS: Final = 1.0
SEARCH_SECONDS: Final = 0.1
"""The time between two questions while there is no primary, or the age of a replica is not known yet."""
ANSWER_SECONDS: Final = 2.0
LATE_SECONDS: Final = 0.5
FIRST_ANSWER_SECONDS: Final = 5.0
_log = logging.getLogger(__name__)


class ServerWatch:
    """It starts when it is needed first, in the event loop of its caller."""

    def __init__(self, servers: Servers, settings: DatabaseSettings) -> None:
        self.servers = servers
        self._connect_seconds = settings.connect_timeout.total_seconds()
        self._statement_cache_size = 100 if settings.statement_cache else 0
        self._openings = Openings()
        self._tasks: list[asyncio.Task[None]] = []
        self._soon = {server: asyncio.Event() for server in servers.every}
        self._asked = asyncio.Event()
        self._changed = asyncio.Event()
        servers.changed = self._take_change

    @property
    def has_asked(self) -> bool:
        """Whether each server was asked once."""
        return self._asked.is_set()

    async def first_answers(self) -> None:
        """Returns when each server was asked once."""
        if self.has_asked:
            return
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._follow(server)) for server in self.servers.every]
        with suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), FIRST_ANSWER_SECONDS)

    async def primary(self) -> Server:
        """Raises StoreUnavailable while there is no primary."""
        await self.first_answers()
        return self.servers.known_primary()

    async def change(self, seconds: float) -> None:
        """Returns when a server has changed its role, and after `seconds` at the latest."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def doubt(self, server: Server) -> None:
        """Call it when a server has failed a statement: no read goes to it until it answers, and it is asked at once."""
        server.is_doubtful = True
        self._soon[server].set()

    def look(self) -> None:
        """Asks every server at once."""
        for event in self._soon.values():
            event.set()

    async def close(self) -> None:
        await end_tasks(self._tasks)
        self._openings.terminate()
        await self._openings.close()

    async def _follow(self, server: Server) -> None:
        connection: Connection | None = None
        try:
            while True:
                connection = await self._ask(server, connection)
                if self.servers.were_asked:
                    self._asked.set()
                pause = ASK_SECONDS if self.servers.is_settled else SEARCH_SECONDS
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._soon[server].wait(), pause)
                self._soon[server].clear()
        except Exception:
            _log.exception("a PostgreSQL server is not watched any more", extra={"server": server.name})
            raise
        finally:
            if connection is not None:
                connection.terminate()

    async def _ask(self, server: Server, connection: Connection | None) -> Connection | None:
        """Returns the connection for the next question; None if the server did not answer. A server that has failed others is
        asked on a new connection, because an old one shows nothing of new ones."""
        if connection is not None and server.is_doubtful:
            connection.terminate()
            connection = None
        reason = ""
        late = asyncio.get_running_loop().call_later(LATE_SECONDS, _doubt, server)
        try:
            for _ in range(2):
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        connection = connection or await self._open(server)
                        self.servers.answered(server, await ask_state(connection))
                    return connection
                except DATABASE_ERRORS as error:
                    reason = type(error).__name__
                    if connection is not None:
                        connection.terminate()
                    elif not isinstance(error, TimeoutError):
                        break
                    connection = None
        finally:
            late.cancel()
        self.servers.failed(server, reason)
        return None

    async def _open(self, server: Server) -> Connection:
        return await self._openings.open(
            logins=server.openings.logins,
            **server.url.connect_arguments(),
            timeout=self._connect_seconds,
            statement_cache_size=self._statement_cache_size,
            server_settings={"application_name": "greenlang watch"},
        )

    def _take_change(self, changed: Collection[Server]) -> None:
        for server in changed:
            if server.role is ServerRole.PRIMARY:
                server.renew_connections()
            else:
                server.end_connections()
        self._changed.set()
        self._changed = asyncio.Event()
        self.look()


def _doubt(server: Server) -> None:
    server.is_doubtful = True
