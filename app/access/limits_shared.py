"""A key's own limits over all processes: the rate is one bucket in Redis, and each concurrent call has a lease there.

Leases are renewed while their calls run. The leases of a process that died expire. While Redis is away, each process keeps to
its share. Keys without limits never need Redis.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Final, Self, cast
from uuid import UUID, uuid4

from app.access.limits import KeyLimits, calls_a_minute, calls_at_once
from app.access.principal import Principal
from app.domain.errors import StoreUnavailable
from app.redis.clients import RedisClient, Script
from app.runtime.clock import Clock
from app.runtime.tasks import end_tasks

LEASE_SECONDS: Final = 30
RENEW_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class SharedKeyLimits:
    """Use it with `async with`, which renews leases. `alone` decides while Redis is away."""

    def __init__(self, alone: KeyLimits, redis: RedisClient, clock: Clock, namespace: str = "greenlang") -> None:
        self._alone = alone
        self._redis = redis
        self._clock = clock
        self._namespace = namespace
        self._leases = Script("leases")
        self._bucket = Script("bucket")
        self._running: dict[UUID, set[str]] = defaultdict(set)
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._renewing = asyncio.create_task(self._renew())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._renewing is not None:
            await end_tasks([self._renewing])

    def slot(self, principal: Principal) -> AbstractAsyncContextManager[None]:
        """Entering raises KeyLimited if the key has no room left. Leaving returns the place among the concurrent calls."""
        if principal.requests_per_minute is None and principal.max_concurrent is None:
            return self._alone.slot(principal)
        return self._limited(principal)

    def running(self, principal: Principal) -> frozenset[str]:
        """The leases that this process holds for the key."""
        return frozenset(self._running.get(principal.key_id, ()))

    @asynccontextmanager
    async def _limited(self, principal: Principal) -> AsyncIterator[None]:
        lease = uuid4().hex
        try:
            shared = await self._enter(principal, lease)
            if shared:
                yield
        finally:
            await self._leave(principal, lease)
        if not shared:
            async with self._alone.slot(principal):
                yield

    async def _enter(self, principal: Principal, lease: str) -> bool:
        """Returns False if Redis is away."""
        try:
            if principal.max_concurrent is not None:
                self._running[principal.key_id].add(lease)
                if not await self._lease("take", principal.key_id, principal.max_concurrent, lease):
                    raise calls_at_once(principal)
            if principal.requests_per_minute is not None:
                key = f"{self._namespace}:key:{principal.key_id.hex}:calls"
                wait = float(cast(str, await self._redis.evaluate(self._bucket, key, principal.requests_per_minute)))
                if wait > 0:
                    raise calls_a_minute(principal, timedelta(seconds=wait))
        except StoreUnavailable:
            return False
        return True

    async def _leave(self, principal: Principal, lease: str) -> None:
        running = self._running.get(principal.key_id)
        if running is None or lease not in running:
            return
        running.discard(lease)
        if not running:
            del self._running[principal.key_id]
        try:
            await self._lease("drop", principal.key_id, 0, lease)
        except StoreUnavailable:
            pass

    async def _renew(self) -> None:
        while True:
            await self._clock.sleep(RENEW_SECONDS)
            try:
                for key_id, leases in list(self._running.items()):
                    await self._lease("renew", key_id, 0, *leases)
            except StoreUnavailable:
                _log.warning("leases of keys cannot be renewed")

    async def _lease(self, what: str, key_id: UUID, max_concurrent: int, *leases: str) -> bool:
        key = f"{self._namespace}:key:{key_id.hex}:running"
        return bool(await self._redis.evaluate(self._leases, key, what, LEASE_SECONDS, max_concurrent, *leases))
