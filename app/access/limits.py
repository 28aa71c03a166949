"""A key's own limits: calls per minute, and concurrent calls. There is no queue: a call over a limit is refused at once.

The rate is a token bucket that holds one minute's worth and starts full. A call that is refused takes nothing from either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID

from app.access.principal import Principal
from app.domain.errors import GreenLangError
from app.runtime.clock import Clock

MAX_KEYS: Final = 10_000
CONCURRENCY_RETRY: Final = timedelta(seconds=1)
"""The end of a running call is not known in advance. This is a reasonable time to try again."""

_UNLIMITED: Final = nullcontext()
_ROUNDING: Final = 1e-9


class KeyLimited(GreenLangError):
    """A limit of the key has no room. `scope` names the key and the limit."""

    def __init__(self, retry_after: timedelta, scope: str) -> None:
        super().__init__(f"no room within {scope}")
        self.retry_after = retry_after
        self.scope = scope


def calls_at_once(principal: Principal) -> KeyLimited:
    return KeyLimited(CONCURRENCY_RETRY, f"key {principal.key_name}: calls at once")


def calls_a_minute(principal: Principal, wait: timedelta) -> KeyLimited:
    return KeyLimited(wait, f"key {principal.key_name}: calls a minute")


class Limits(Protocol):
    def slot(self, principal: Principal) -> AbstractAsyncContextManager[None]:
        """Entering raises KeyLimited if the key has no room left. Leaving returns the place among the concurrent calls."""
        ...


class RequestBucket:
    """`tokens` is the number of calls that may be made. `at` is when they were counted, in monotonic seconds."""

    __slots__ = ("at", "tokens")

    def __init__(self, per_minute: float, now: float) -> None:
        self.tokens = per_minute
        self.at = now

    def take(self, per_minute: float, now: float) -> timedelta | None:
        """Takes one call, or takes nothing and returns how long it takes until one is available."""
        self.tokens = min(per_minute, self.tokens + (now - self.at) * per_minute / 60)
        self.at = now
        if self.tokens < 1 - _ROUNDING:
            return timedelta(minutes=(1 - self.tokens) / per_minute)
        self.tokens -= 1
        return None


@dataclass(slots=True)
class _Use:
    bucket: RequestBucket
    running: int = 0


class KeyLimits:
    """The limits of one process. `share` is the part of each limit that it may use: 1 divided by the number of processes.

    A share is never less than one concurrent call and one call per minute.
    """

    def __init__(self, clock: Clock, share: float = 1.0) -> None:
        self._clock = clock
        self._share = share
        self._uses: dict[UUID, _Use] = {}

    def __len__(self) -> int:
        """The number of keys that are remembered."""
        return len(self._uses)

    def slot(self, principal: Principal) -> AbstractAsyncContextManager[None]:
        """Entering raises KeyLimited if the key has no room left. Leaving returns the place among the concurrent calls."""
        if principal.requests_per_minute is None and principal.max_concurrent is None:
            return _UNLIMITED
        return self._limited(principal)

    @asynccontextmanager
    async def _limited(self, principal: Principal) -> AsyncIterator[None]:
        now = self._clock.monotonic()
        use = self._use(principal, now)
        if principal.max_concurrent is not None and use.running >= max(1, int(principal.max_concurrent * self._share)):
            raise calls_at_once(principal)
        wait = None if principal.requests_per_minute is None else use.bucket.take(self._rate(principal), now)
        if wait is not None:
            raise calls_a_minute(principal, wait)
        use.bucket.at = now
        use.running += 1
        try:
            yield
        finally:
            use.running -= 1

    def _use(self, principal: Principal, now: float) -> _Use:
        found = self._uses.get(principal.key_id)
        if found is None:
            if len(self._uses) >= MAX_KEYS:
                self._forget_idle(now)
            found = self._uses[principal.key_id] = _Use(RequestBucket(self._rate(principal), now))
        return found

    def _forget_idle(self, now: float) -> None:
        """Forgets keys without a running call and without a call in the last minute: a new entry is the same."""
        self._uses = {key: use for key, use in self._uses.items() if use.running or now - use.bucket.at < 60}

    def _rate(self, principal: Principal) -> float:
        return max(1.0, (principal.requests_per_minute or 1) * self._share)
