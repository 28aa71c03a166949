"""The open streams of this process, by key: how many a key may have, and why one is ended from outside.

One sweep per second covers all of them. If a key has expired, was revoked or lost a right, its streams are ended. A stream
whose client has stopped reading is aborted, and quiet streams are pinged. A sweep looks up each key once, even if it has many
streams.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from typing import Protocol, TypeAlias
from uuid import UUID

from app.access.principal import Principal
from app.domain.errors import GreenLangError, LimitExceeded, Unauthenticated
from app.runtime.clock import Clock
from app.runtime.tasks import create_shared_task

logger = logging.getLogger(__name__)

Authenticate: TypeAlias = Callable[[Mapping[str, str]], Awaitable[Principal]]

SWEEP_SECONDS = 1.0
PING_SECONDS = 12.0


class Ending(Enum):
    """The reason why a stream was ended from outside."""

    KEY_GONE = "the key has expired, was revoked or has other rights now"
    NOT_READING = "the client did not read for too long"
    SILENT = "the client did not answer pings"
    STOPPING = "this process stops; connect again and go on after the last cursor"


class Connection(Protocol):
    """A socket or an event stream. No method may block."""

    principal: Principal
    credentials: Mapping[str, str]

    def end(self, ending: Ending) -> None:
        """If the process stops, operations that have one answer are still answered."""
        ...

    def sending_since(self) -> float | None:
        """When the current send began, in the Clock's monotonic seconds."""
        ...

    def ping(self) -> None: ...


class Connections:
    def __init__(self, authenticate: Authenticate, clock: Clock, *, per_key: int, send_timeout: timedelta) -> None:
        self._authenticate = authenticate
        self._clock = clock
        self._per_key = per_key
        self._send_timeout = send_timeout.total_seconds()
        self._open: dict[Connection, float] = {}
        self._counts: Counter[UUID] = Counter()
        self.subscriptions = 0
        self._sweeper: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def joined(self, connection: Connection) -> Iterator[None]:
        """Raises LimitExceeded if the key already has its maximum of streams."""
        key = connection.principal.key_id
        if self._counts[key] >= self._per_key:
            raise LimitExceeded("streams of one key", self._counts[key] + 1, self._per_key)
        self._counts[key] += 1
        self._open[connection] = self._clock.monotonic() + PING_SECONDS
        if self._sweeper is None:
            self._sweeper = create_shared_task(self._sweep_while_open())
        try:
            yield
        finally:
            del self._open[connection]
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]

    @contextmanager
    def subscribed(self) -> Iterator[None]:
        """Counts a subscription while it is open. A socket can have many, or none."""
        self.subscriptions += 1
        try:
            yield
        finally:
            self.subscriptions -= 1

    def end_all(self) -> None:
        """Ends every stream because the process stops."""
        for connection in list(self._open):
            connection.end(Ending.STOPPING)

    async def _sweep_while_open(self) -> None:
        checking: asyncio.Task[None] | None = None
        try:
            while self._open:
                await self._clock.sleep(SWEEP_SECONDS)
                self.sweep_open()
                if checking is None or checking.done():
                    checking = asyncio.create_task(self.check_keys())
        finally:
            self._sweeper = None
            if checking is not None:
                checking.cancel()

    def sweep_open(self) -> None:
        """Checks what is in memory, so it waits for no store."""
        now = self._clock.monotonic()
        wall = self._clock.now()
        for connection, ping_at in list(self._open.items()):
            expires_at = connection.principal.expires_at
            sending_since = connection.sending_since()
            if expires_at is not None and expires_at <= wall:
                connection.end(Ending.KEY_GONE)
            elif sending_since is not None and now - sending_since > self._send_timeout:
                connection.end(Ending.NOT_READING)
            elif now >= ping_at:
                self._open[connection] = now + PING_SECONDS
                connection.ping()

    async def check_keys(self) -> None:
        """Ends the streams whose key is no longer valid. If the key store does not answer, they continue."""
        by_key: dict[str, list[Connection]] = {}
        for connection in self._open:
            by_key.setdefault(connection.credentials.get("authorization", ""), []).append(connection)
        await asyncio.gather(*map(self._check_key, by_key.values()))

    async def _check_key(self, connections: list[Connection]) -> None:
        """Ends all streams of one key."""
        try:
            found = await self._authenticate(connections[0].credentials)
        except Unauthenticated:
            found = None
        except GreenLangError as error:
            logger.warning("keys of open streams could not be checked: %s", error)
            return
        for connection in connections:
            if found is None or _rights(found) != _rights(connection.principal):
                connection.end(Ending.KEY_GONE)
            else:
                connection.principal = found


def _rights(principal: Principal) -> tuple[object, ...]:
    return principal.key_id, principal.tenant, principal.scopes, principal.agent
