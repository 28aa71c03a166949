"""However many ask for an answer at once, one call makes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from app.cache.invalidations import Invalidations, Selector, SelectorKind
from app.cache.keys import EntryKey
from app.cache.origins import LEASE_SECONDS, Origins
from app.db.sessions import Sessions
from app.domain.errors import DeadlineExceeded
from app.events.relay import Relay
from app.redis.clients import RedisClient, connect_redis
from app.runtime.clock import SystemClock
from app.settings import RedisSettings
from tests.app.cache.cached import a_key

pytestmark = pytest.mark.anyio


class Shelf:
    """What has been made, as every process sees it."""

    def __init__(self) -> None:
        self.made: dict[EntryKey, str] = {}
        self.versions: dict[EntryKey, int] = {}
        self.calls = 0
        self.may_end = asyncio.Event()
        self.may_be_stored = asyncio.Event()
        self.may_be_stored.set()


class Process:
    def __init__(self, name: str, shelf: Shelf, sessions: Sessions, redis: RedisClient) -> None:
        self.name = name
        self.shelf = shelf
        self.began = 0
        self.has_made = False
        self.invalidations = Invalidations(sessions, Relay(sessions, SystemClock()), SystemClock(), on_lost=lambda: None)
        self.origins: Origins[str] = Origins(self.invalidations, redis, SystemClock(), written=self._written)

    async def ask(self, key: EntryKey, seconds: float = 30) -> str:
        deadline = SystemClock().monotonic() + seconds
        running = self.origins.join(key)
        if running is not None:
            return await self.origins.wait(running, deadline)
        return await self.origins.lead(key, deadline, find=lambda: self._find(key), make=lambda: self._make(key))

    async def _find(self, key: EntryKey) -> str | None:
        is_valid = self.shelf.versions.get(key) == self.invalidations.version(key.tenant)
        return self.shelf.made.get(key) if is_valid else None

    async def _make(self, key: EntryKey) -> str:
        self.shelf.calls += 1
        self.began = self.invalidations.version(key.tenant)
        await self.shelf.may_end.wait()
        self.has_made = True
        return self.name

    async def _written(self, key: EntryKey) -> None:
        """Nobody else sees what was made before."""
        await self.shelf.may_be_stored.wait()
        if self.has_made:
            self.shelf.made[key] = self.name
            self.shelf.versions[key] = self.began


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[RedisClient]:
    client = connect_redis(valkey_url, RedisSettings(socket_timeout=timedelta(seconds=5)), SystemClock())
    yield client
    await client.close()


async def started(shelf: Shelf, calls: int = 1) -> None:
    async with asyncio.timeout(10):
        while shelf.calls < calls:  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0.01)


async def test_one_process_of_three_makes_it_and_all_get_it(sessions: Sessions, redis: RedisClient) -> None:
    shelf, key = Shelf(), a_key()
    processes = [Process(name, shelf, sessions, redis) for name in "abc"]
    asked = [asyncio.create_task(process.ask(key)) for process in processes for _ in range(20)]
    await started(shelf)
    await asyncio.sleep(0.2)
    shelf.may_end.set()
    answers = await asyncio.gather(*asked)
    assert shelf.calls == 1
    assert set(answers) == {shelf.made[key]}


async def test_a_caller_that_leaves_ends_nothing(sessions: Sessions, redis: RedisClient) -> None:
    shelf, key = Shelf(), a_key()
    process = Process("a", shelf, sessions, redis)
    first = asyncio.create_task(process.ask(key))
    await started(shelf)
    second = asyncio.create_task(process.ask(key))
    first.cancel()
    await asyncio.sleep(0)
    shelf.may_end.set()
    assert await second == "a"
    assert shelf.calls == 1


async def test_the_next_takes_over_from_a_holder_that_died(sessions: Sessions, redis: RedisClient) -> None:
    shelf, key = Shelf(), a_key()
    dead, living = (Process(name, shelf, sessions, redis) for name in "ab")
    stuck = asyncio.create_task(dead.ask(key))
    await started(shelf)
    running = dead.origins.join(key)
    assert running is not None
    asked = asyncio.create_task(living.ask(key, seconds=10 * LEASE_SECONDS))
    await asyncio.sleep(0.2)
    assert shelf.calls == 1
    running.cancel()
    await started(shelf, 2)
    shelf.may_end.set()
    assert await asked == "b"
    with pytest.raises(asyncio.CancelledError):
        await stuck


async def test_who_waits_for_another_process_waits_no_longer_than_its_deadline(sessions: Sessions, redis: RedisClient) -> None:
    shelf, key = Shelf(), a_key()
    first, second = (Process(name, shelf, sessions, redis) for name in "ab")
    leading = asyncio.create_task(first.ask(key))
    await started(shelf)
    for process in (first, second):
        with pytest.raises(DeadlineExceeded):
            await process.ask(key, seconds=0.1)
    shelf.may_end.set()
    assert await leading == "a"


async def test_without_redis_each_process_makes_its_own(sessions: Sessions) -> None:
    shelf, key = Shelf(), a_key()
    away = connect_redis("redis://127.0.0.1:1/0", RedisSettings(), SystemClock())
    processes = [Process(name, shelf, sessions, away) for name in "ab"]
    asked = [asyncio.create_task(process.ask(key)) for process in processes for _ in range(10)]
    await started(shelf, 2)
    shelf.may_end.set()
    await asyncio.gather(*asked)
    assert shelf.calls == 2
    await away.close()


async def test_no_caller_joins_a_call_that_began_before_an_invalidation(sessions: Sessions, redis: RedisClient) -> None:
    shelf, key = Shelf(), a_key()
    process = Process("a", shelf, sessions, redis)
    old = asyncio.create_task(process.ask(key))
    await started(shelf)
    await process.invalidations.add(key.tenant, Selector(SelectorKind.EVERYTHING))
    new = asyncio.create_task(process.ask(key))
    await asyncio.sleep(0.2)
    assert shelf.calls == 1, "two calls for one answer run at once"
    shelf.may_end.set()
    assert list(await asyncio.gather(old, new)) == ["a", "a"]
    assert shelf.calls == 2


async def test_who_waited_finds_what_is_still_being_stored_when_the_caller_has_it(sessions: Sessions, redis: RedisClient) -> None:
    shelf, key = Shelf(), a_key()
    first, second = (Process(name, shelf, sessions, redis) for name in "ab")
    shelf.may_be_stored.clear()
    leading = asyncio.create_task(first.ask(key))
    await started(shelf)
    waiting = [asyncio.create_task(process.ask(key)) for process in (second, second)]
    shelf.may_end.set()
    assert await leading == "a"
    late = asyncio.create_task(first.ask(key))
    await asyncio.sleep(0.2)
    assert shelf.calls == 1
    shelf.may_be_stored.set()
    assert await asyncio.gather(late, *waiting) == ["a"] * 3
    assert shelf.calls == 1
    await first.origins.close()
