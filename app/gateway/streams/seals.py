"""The keys that seal the entries of running streams.

No entry is in Redis unencrypted. If content is kept and content keys are configured, they seal it. All other entries are sealed
by stream keys, which need no configuration. The processes of an installation share the stream keys through a table of
PostgreSQL that is not in its write-ahead log. A stream key seals for an hour. It is deleted some hours later, and then its
entries cannot be opened any more.

If the store is private to this machine, the table holds only one half of each key. The other half is in the memory of the
server processes, so the data directory alone never opens a stream.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Protocol, TypeAlias

from sqlalchemy import text

from app.db.failures import DATABASE_ERRORS
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.runtime.clock import Clock
from app.secrets.sealing import Sealer, UnknownKeyError

SEALS_FOR: Final = timedelta(hours=1)
OPENS_FOR: Final = timedelta(hours=4)
"""Counted from when the key was made: it seals for an hour, a stream runs less than an hour, and the log is kept for an hour
after the stream's end."""
REFRESH_SECONDS: Final = 60.0
_SLACK_SECONDS: Final = 300.0
"""How long a key continues to seal if no newer one is available."""
_KEY_BYTES: Final = 32
Random: TypeAlias = Callable[[int], bytes]
_log = logging.getLogger(__name__)


class Seals(Protocol):
    """Seals and opens the entries of a stream."""

    async def ready(self) -> None: ...

    def seal(self, content: bytes, context: bytes) -> bytes: ...

    async def unseal(self, sealed: bytes, context: bytes) -> bytes: ...


class StreamSeals:
    """`content` seals entries if it has a key and `keep_content` is true. Otherwise the shared stream keys do. `memory_secret`
    is the half of the stream keys that is never stored. It is the same in every process that shares streams, or empty."""

    def __init__(
        self,
        sessions: Sessions,
        clock: Clock,
        content: Sealer,
        *,
        keep_content: bool,
        memory_secret: bytes = b"",
        random: Random = os.urandom,
    ) -> None:
        self._sessions = sessions
        self._clock = clock
        self._content = content
        self._is_durable = keep_content and content.has_key
        self._memory_secret = memory_secret
        self._random = random
        self._opens_until: dict[bytes, float] = {}
        self._seals_until = 0.0
        self._sealer = content
        self._refreshing = asyncio.Lock()
        self._refreshes = 0

    async def ready(self) -> None:
        """Returns when entries can be sealed. Raises StoreUnavailable."""
        if not self._is_durable and self._clock.monotonic() >= self._seals_until:
            await self._refresh(self._refreshes)

    def seal(self, content: bytes, context: bytes) -> bytes:
        """Call `ready` before the first entry of a stream."""
        assert self._sealer.has_key
        return self._sealer.seal(content, context)

    async def unseal(self, sealed: bytes, context: bytes) -> bytes:
        """Raises UnknownKeyError if the key is gone, UnsealError if the bytes were changed, StoreUnavailable."""
        refreshes = self._refreshes
        try:
            return self._sealer.unseal(sealed, context)
        except UnknownKeyError:
            await self._refresh(refreshes)
        return self._sealer.unseal(sealed, context)

    async def run_maintenance(self) -> None:
        """Reads the shared keys regularly and replaces expired ones. Runs until it is cancelled."""
        while not self._is_durable:
            try:
                await self._refresh(self._refreshes)
            except StoreUnavailable:
                _log.warning("stream keys are not renewed: PostgreSQL does not answer")
            except DATABASE_ERRORS:
                _log.exception("stream keys are not renewed")
            await self._clock.sleep(REFRESH_SECONDS)

    async def _refresh(self, seen: int) -> None:
        """Reads the shared keys, unless another caller has done it since the refresh number `seen`."""
        async with self._refreshing:
            if self._refreshes != seen:
                return
            parameters = {"fresh": self._random(_KEY_BYTES), "seals": SEALS_FOR, "opens": OPENS_FOR}
            async with self._sessions.write() as session:
                rows = (await session.execute(_SHARE, parameters)).all()
            self._take([(self._whole(row.secret), float(row.age)) for row in rows])
            self._refreshes += 1

    def _take(self, keys: list[tuple[bytes, float]]) -> None:
        """`keys` are the shared keys with their ages in seconds, youngest first. Known keys are kept as long as they may open
        entries, because a database that crashed has lost them."""
        now = self._clock.monotonic()
        shared = {key: now - age + OPENS_FOR.total_seconds() for key, age in keys}
        self._opens_until = shared | {key: until for key, until in self._opens_until.items() if key not in shared and until > now}
        self._seals_until = now - keys[0][1] + SEALS_FOR.total_seconds() + _SLACK_SECONDS
        streams = Sealer(list(self._opens_until))
        first, second = (self._content, streams) if self._is_durable else (streams, self._content)
        self._sealer = first.opening_also(second)

    def _whole(self, stored: bytes) -> bytes:
        return hmac.digest(self._memory_secret, stored, "sha256") if self._memory_secret else stored


_SHARE = text("select /* stream_keys.share */ secret, age from share_stream_keys(:fresh, :seals, :opens)")
