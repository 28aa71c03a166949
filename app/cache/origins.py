"""Makes one origin call for an answer, even if many callers ask for it at once.

Within a process callers join the running call. Across processes a lease in the coordination Redis decides which process makes
it. If its holder dies, the next waiting process takes over. Without Redis each process makes its own call. The lease ends when
the tiers have the answer, so the next holder finds it.

If something of a tenant was invalidated after a call began, its callers do not join that call, because the answer may be older.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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
    def __init__(
        self,
        invalidations: Invalidations,
        redis: RedisClient,
        clock: Clock,
        *,
        written: Callable[[EntryKey], Awaitable[None]],
    ) -> None:
        """`written` returns when what was made for a key is in every tier that can be reached."""
        self._invalidations = invalidations
        self._redis = redis
        self._clock = clock
        self._written = written
        self._running: dict[EntryKey, _Running[Made]] = {}
        self._releasing: set[asyncio.Task[None]] = set()

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
        """`make` makes the answer here, unless `find` finds it. `find` is asked at once, and again when another call may have
        made the answer. The call goes on if the caller leaves. Raises what `make` raises, and DeadlineExceeded if another
        process takes too long."""
        task = asyncio.create_task(self._lead(key, deadline, find, make))
        self._running[key] = _Running(task, self._invalidations.version(key.tenant))
        task.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Returns when every call has ended."""
        while self._running or self._releasing:
            await asyncio.wait([*(running.task for running in self._running.values()), *self._releasing])

    async def _lead(
        self,
        key: EntryKey,
        deadline: float,
        find: Callable[[], Awaitable[Made | None]],
        make: Callable[[], Awaitable[Made]],
    ) -> Made:
        found = await find()
        if found is not None:
            return found
        holder = uuid4().hex
        while not await self._acquire(key, holder):
            if self._clock.monotonic() >= deadline:
                raise DeadlineExceeded
            await self._clock.sleep(POLL_SECONDS)
            found = await find()
            if found is not None:
                return found
        renewing = asyncio.create_task(self._renew(key, holder))
        try:
            found = await find()
            return await make() if found is None else found
        finally:
            releasing = asyncio.create_task(self._release(key, holder, renewing))
            self._releasing.add(releasing)
            releasing.add_done_callback(self._releasing.discard)

    async def _release(self, key: EntryKey, holder: str, renewing: asyncio.Task[None]) -> None:
        """The caller has its answer before that."""
        await self._written(key)
        await end_tasks([renewing])
        await self._evaluate(key, holder, 0)

    async def _renew(self, key: EntryKey, holder: str) -> None:
        while True:
            await self._clock.sleep(LEASE_SECONDS / 3)
            await self._acquire(key, holder)

    async def _acquire(self, key: EntryKey, holder: str) -> bool:
        """Returns True also while Redis is away."""
        return await self._evaluate(key, holder, int(LEASE_SECONDS * 1000)) != 0

    async def _evaluate(self, key: EntryKey, holder: str, milliseconds: int) -> object:
        place = f"origin:{tenant_label(key.tenant)}:{key.name}"
        try:
            return await self._redis.evaluate(_ORIGIN, place, holder, milliseconds)
        except StoreUnavailable:
            return None

    def _forget(self, key: EntryKey, done: asyncio.Task[Made]) -> None:
        running = self._running.get(key)
        if running is not None and running.task is done:
            del self._running[key]
        if not done.cancelled():
            done.exception()
