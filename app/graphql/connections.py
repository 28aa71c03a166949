"""The streams this process has open, by key: how many a key may have, and what ends them from outside.

One sweep a second looks after all of them: a key that expired, was revoked or lost a right ends its streams; a reader that
stopped reading is cut off; quiet ones are pinged. Each key is looked up once a sweep, however many streams it has.
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

logger = logging.getLogger(__name__)

Authenticate: TypeAlias = Callable[[Mapping[str, str]], Awaitable[Principal]]

SWEEP_SECONDS = 1.0
PING_SECONDS = 12.0


class Ending(Enum):
    """Why a stream was ended from outside."""

    KEY_GONE = "the key has expired, was revoked or has other rights now"
    NOT_READING = "the client did not read for too long"
    SILENT = "the client did not answer pings"


class Connection(Protocol):
    """A socket or an event stream; nothing here may block."""

    principal: Principal
    credentials: Mapping[str, str]

    def end(self, ending: Ending) -> None: ...

    def sending_since(self) -> float | None:
        """When the send that is under way began, in the clock's monotonic seconds."""
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
        self._sweeper: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def joined(self, connection: Connection) -> Iterator[None]:
        """Raises LimitExceeded if the key has as many as it may."""
        key = connection.principal.key_id
        if self._counts[key] >= self._per_key:
            raise LimitExceeded("streams of one key", self._counts[key] + 1, self._per_key)
        self._counts[key] += 1
        self._open[connection] = self._clock.monotonic() + PING_SECONDS
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep_while_open())
        try:
            yield
        finally:
            del self._open[connection]
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]

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
        """What can be seen in memory: this waits for no store."""
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
        """Ends the streams whose key is gone. If the store of keys does not answer, they continue."""
        by_key: dict[str, list[Connection]] = {}
        for connection in self._open:
            by_key.setdefault(connection.credentials.get("authorization", ""), []).append(connection)
        await asyncio.gather(*map(self._check_key, by_key.values()))

    async def _check_key(self, connections: list[Connection]) -> None:
        """All of one key."""
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
