from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import uuid4

import pytest

from app.access.limits import KeyLimited, KeyLimits
from app.access.limits_shared import RENEW_SECONDS, SharedKeyLimits
from app.access.principal import Principal
from app.redis.clients import RedisClient, Script, connect_redis
from app.runtime.clock import SystemClock
from app.settings import RedisSettings
from tests.app.access.principals import principal
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

NO_SERVER = "redis://127.0.0.1:1"


class Processes:
    """Starts limits as processes of one deployment have them: each with its own connections, all under one name."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.clock = ManualClock()
        self._url = url
        self._stack = stack
        self._namespace = uuid4().hex

    def leases_of(self, caller: Principal) -> str:
        return f"{self._namespace}:key:{caller.key_id.hex}:running"

    async def start(self, url: str | None = None) -> tuple[SharedKeyLimits, RedisClient]:
        settings = RedisSettings(socket_timeout=timedelta(seconds=2))
        redis = connect_redis(url or self._url, settings, SystemClock())
        self._stack.push_async_callback(redis.close)
        limits = SharedKeyLimits(KeyLimits(self.clock, 0.5), redis, self.clock, self._namespace)
        return await self._stack.enter_async_context(limits), redis


@pytest.fixture
async def processes(valkey_url: str) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as stack:
        yield Processes(valkey_url, stack)


async def taken(limits: SharedKeyLimits, caller: Principal) -> bool:
    try:
        async with limits.slot(caller):
            return True
    except KeyLimited:
        return False


class TestRate:
    async def test_is_one_for_all_processes(self, processes: Processes) -> None:
        here, there = (await processes.start())[0], (await processes.start())[0]
        caller = principal(requests_per_minute=5)
        assert [await taken(limits, caller) for limits in (here, there) * 4] == [True] * 5 + [False] * 3

    async def test_the_refusal_says_when_there_is_room(self, processes: Processes) -> None:
        here, _ = await processes.start()
        caller = principal(requests_per_minute=1)
        assert await taken(here, caller)
        with pytest.raises(KeyLimited) as caught:
            async with here.slot(caller):
                pass
        assert timedelta(seconds=50) < caught.value.retry_after <= timedelta(seconds=60)
        assert caught.value.scope == "key key 1: calls a minute"

    async def test_is_exact_under_a_rush_from_all_sides(self, processes: Processes) -> None:
        here, there = (await processes.start())[0], (await processes.start())[0]
        caller = principal(requests_per_minute=30)
        rush = await asyncio.gather(*(taken(limits, caller) for limits in (here, there) * 40))
        assert sum(rush) == 30


class TestCallsAtOnce:
    async def test_are_counted_over_all_processes(self, processes: Processes) -> None:
        here, there = (await processes.start())[0], (await processes.start())[0]
        caller = principal(max_concurrent=2)
        async with here.slot(caller), there.slot(caller):
            assert not await taken(here, caller)
            assert not await taken(there, caller)
        assert await taken(there, caller)

    async def test_a_call_that_fails_or_is_cancelled_gives_its_place_back(self, processes: Processes) -> None:
        here, _ = await processes.start()
        caller = principal(max_concurrent=1)

        entered = asyncio.Event()

        async def forever() -> None:
            async with here.slot(caller):
                entered.set()
                await asyncio.Event().wait()

        running = asyncio.create_task(forever())
        await entered.wait()
        assert not await taken(here, caller)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(RuntimeError):
            async with here.slot(caller):
                raise RuntimeError
        assert await taken(here, caller)

    async def test_a_refusal_by_rate_takes_no_place(self, processes: Processes) -> None:
        here, _ = await processes.start()
        assert await taken(here, principal(max_concurrent=1, requests_per_minute=1))
        assert not await taken(here, principal(max_concurrent=1, requests_per_minute=1))
        assert await taken(here, principal(max_concurrent=1))

    async def test_a_lease_ends_by_itself(self, processes: Processes) -> None:
        here, redis = await processes.start()
        caller = principal(max_concurrent=1)
        async with here.slot(caller):
            await redis.evaluate(Script("leases"), processes.leases_of(caller), "renew", 0, 0, *here.running(caller))
            assert await taken(here, caller)

    async def test_a_running_call_keeps_its_lease_even_when_redis_forgets_it(self, processes: Processes) -> None:
        here, redis = await processes.start()
        caller = principal(max_concurrent=1)
        async with here.slot(caller):
            await redis.evaluate(Script("leases"), processes.leases_of(caller), "drop", 0, 0, *here.running(caller))
            await processes.clock.advance(RENEW_SECONDS)
            for _ in range(1000):
                if not await taken(here, caller):
                    break
                await asyncio.sleep(0.01)
            assert not await taken(here, caller)


class TestRedisAway:
    async def test_each_process_keeps_to_its_share(self, processes: Processes) -> None:
        alone, _ = await processes.start(NO_SERVER)
        caller = principal(requests_per_minute=4, max_concurrent=2)
        async with alone.slot(caller):
            assert not await taken(alone, caller)
        assert [await taken(alone, caller) for _ in range(2)] == [True, False]

    async def test_a_key_without_limits_never_asks(self, processes: Processes) -> None:
        alone, redis = await processes.start(NO_SERVER)
        assert all([await taken(alone, principal()) for _ in range(10)])
        assert redis.available
