"""Makes one origin call for an answer, even if many callers ask for it at once.

Within a process callers join the running call. Across processes a lease in the coordination Redis decides which process makes
it. If its holder dies, the next waiting process takes over. Without Redis each process makes its own call.

If something of a tenant was invalidated after a call began, its callers do not join that call, because the answer may be older.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar
from uuid import uuid4

from app.cache.invalidations import Invalidations
from app.cache.keys import EntryKey, tenant_label
from app.domain.errors import DeadlineExceeded, StoreUnavailable
from app.redis.clients import RedisClient, Script
from app.runtime.clock import Clock
from app.runtime.tasks import end_tasks

LEASE_SECONDS: Final = 3.0
POLL_SECONDS: Final = 0.05
_ORIGIN = Script("cache_origin")

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class _Running(Generic[Made]):
    task: asyncio.Task[Made]
    version: int


class Origins(Generic[Made]):
    def __init__(self, invalidations: Invalidations, redis: RedisClient, clock: Clock) -> None:
        self._invalidations = invalidations
        self._redis = redis
        self._clock = clock
        self._name = uuid4().hex
        self._running: dict[EntryKey, _Running[Made]] = {}

    def join(self, key: EntryKey) -> asyncio.Task[Made] | None:
        """Returns the running call of this process for the answer, if there is one. Wait for it with `wait`."""
        running = self._running.get(key)
        is_new_enough = running is not None and running.version == self._invalidations.version(key.tenant)
        return running.task if running is not None and is_new_enough else None

    async def wait(self, task: asyncio.Task[Made], deadline: float) -> Made:
        """Raises what the call raises, and DeadlineExceeded. `deadline` is in the Clock's monotonic seconds."""
        done, _ = await asyncio.wait([task], timeout=max(0.0, deadline - self._clock.monotonic()))
        if not done:
            raise DeadlineExceeded
        return task.result()

    async def lead(
        self,
        key: EntryKey,
        deadline: float,
        *,
        find: Callable[[], Awaitable[Made | None]],
        make: Callable[[], Awaitable[Made]],
    ) -> Made:
        """`make` makes the answer here, unless `find` finds it, because another call may have made it. The call goes on if the
        caller leaves. Raises what `make` raises, and DeadlineExceeded if another process takes too long."""
        task = asyncio.create_task(self._lead(key, deadline, find, make))
        self._running[key] = _Running(task, self._invalidations.version(key.tenant))
        task.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Returns when every call has ended."""
        while self._running:
            await asyncio.wait([running.task for running in self._running.values()])

    async def _lead(
        self,
        key: EntryKey,
        deadline: float,
        find: Callable[[], Awaitable[Made | None]],
        make: Callable[[], Awaitable[Made]],
    ) -> Made:
        while not await self._acquire(key):
            if self._clock.monotonic() >= deadline:
                raise DeadlineExceeded
            await self._clock.sleep(POLL_SECONDS)
            found = await find()
            if found is not None:
                return found
        async with self._renewed(key):
            found = await find()
            return await make() if found is None else found

    @asynccontextmanager
    async def _renewed(self, key: EntryKey) -> AsyncIterator[None]:
        renewing = asyncio.create_task(self._renew(key))
        try:
            yield
        finally:
            await end_tasks([renewing])
            await self._evaluate(key, 0)

    async def _renew(self, key: EntryKey) -> None:
        while True:
            await self._clock.sleep(LEASE_SECONDS / 3)
            await self._acquire(key)

    async def _acquire(self, key: EntryKey) -> bool:
        """Returns True also while Redis is away."""
        return await self._evaluate(key, int(LEASE_SECONDS * 1000)) != 0

    async def _evaluate(self, key: EntryKey, milliseconds: int) -> object:
        place = f"origin:{tenant_label(key.tenant)}:{key.name}"
        try:
            return await self._redis.evaluate(_ORIGIN, place, self._name, milliseconds)
        except StoreUnavailable:
            return None

    def _forget(self, key: EntryKey, done: asyncio.Task[Made]) -> None:
        running = self._running.get(key)
        if running is not None and running.task is done:
            del self._running[key]
        if not done.cancelled():
            done.exception()
