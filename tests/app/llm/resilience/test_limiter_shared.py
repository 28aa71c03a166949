"""Several processes' limiters on one real server, each with a client of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest

from app.domain.errors import StoreUnavailable
from app.domain.usage import TokenUsage
from app.llm.resilience.coordination import Coordination
from app.llm.resilience.limiter import Limiter, LimiterKind, LimiterState, Rates
from app.llm.resilience.limiter_shared import SharedBuckets
from app.redis.clients import RedisClient, Script, connect_redis
from app.runtime.clock import SystemClock
from app.settings import ProviderLimits, RedisSettings
from tests.services import full_redis

pytestmark = pytest.mark.anyio

FAR = 1e12


class Process:
    """What one process has of a shared limit."""

    def __init__(self, url: str, namespace: str, rates: Rates) -> None:
        self.clock = SystemClock()
        self.redis: RedisClient = connect_redis(url, RedisSettings(), self.clock)
        self.coordination = Coordination(self.redis, self.clock, expected=2, namespace=namespace)
        self.buckets: SharedBuckets = self.coordination.buckets("a", rates)
        self.limiter = Limiter("a", ProviderLimits(), self.buckets, self.clock, cached_is_free=False)
        self.granted = 0

    async def take(self, tokens: int) -> None:
        await self.limiter.acquire("acme", tokens, FAR)
        self.granted += tokens

    def state(self, kind: LimiterKind = LimiterKind.TOKENS) -> LimiterState:
        return next(state for state in self.limiter.states if state.kind is kind)

    async def close(self) -> None:
        await self.limiter.close()
        await self.coordination.leave()
        await self.redis.close()


Start = Callable[[Rates], Process]


@pytest.fixture
async def start(valkey_url: str) -> AsyncIterator[Start]:
    namespace = f"test:{uuid4().hex}"
    processes: list[Process] = []

    def start_one(rates: Rates) -> Process:
        processes.append(Process(valkey_url, namespace, rates))
        return processes[-1]

    yield start_one
    for process in processes:
        await process.close()


class TestOneLimitForAll:
    async def test_what_one_took_the_other_cannot(self, start: Start) -> None:
        one, two = start(Rates(None, 600)), start(Rates(None, 600))
        await one.take(500)
        await two.take(100)
        await two.coordination.sync()
        assert two.state().available < 15
        assert two.state().shared
        assert two.limiter.seconds_until(600) > 50

    async def test_a_call_that_only_asks_redis_is_no_reason_to_go_elsewhere(self, start: Start) -> None:
        one = start(Rates(1_000, 100_000))
        asking = asyncio.create_task(one.take(100))
        await asyncio.sleep(0)
        assert not asking.done()
        assert one.limiter.seconds_until(100) == 0
        await asking

    async def test_together_they_never_get_more_than_the_bucket_and_its_refill(self, start: Start) -> None:
        rates = Rates(None, 6_000)
        processes = [start(rates) for _ in range(3)]
        started = time.monotonic()

        async def hammer(process: Process) -> None:
            while True:
                await process.take(50)

        async def coordinate() -> None:
            while True:
                for process in processes:
                    await process.coordination.sync()
                await asyncio.sleep(0.1)

        tasks = [asyncio.create_task(hammer(process)) for process in processes for _ in range(5)]
        tasks.append(asyncio.create_task(coordinate()))
        await asyncio.wait(tasks, timeout=3)
        granted = sum(process.granted for process in processes)
        allowed = 6_000 + 100 * (time.monotonic() - started)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert granted <= allowed
        assert granted >= 0.9 * allowed
        assert min(process.granted for process in processes) > 0

    async def test_a_large_call_is_not_starved_by_another_processs_small_ones(self, start: Start) -> None:
        rates = Rates(None, 6_000)
        greedy, other = start(rates), start(rates)
        await greedy.take(6_000)

        async def hammer() -> None:
            while True:
                await greedy.take(10)

        small = [asyncio.create_task(hammer()) for _ in range(5)]
        async with asyncio.timeout(10):
            await other.take(200)
        for task in small:
            task.cancel()
        await asyncio.gather(*small, return_exceptions=True)
        assert other.granted == 200

    async def test_settlements_reach_the_others(self, start: Start) -> None:
        one, two = start(Rates(60, 6_000)), start(Rates(60, 6_000))
        hold = await one.limiter.acquire("acme", 5_000, FAR)
        hold.settle(TokenUsage(visible_output_tokens=100))
        await one.coordination.sync()
        await two.coordination.sync()
        assert two.state().available >= 5_900 - 0.05 * 6_000
        overdrawn = await one.limiter.acquire("acme", 10, FAR)
        overdrawn.settle(TokenUsage(visible_output_tokens=3_000))
        await one.coordination.sync()
        await two.buckets.fetch(1, 0)
        assert two.state().available < 3_200


class TestInHand:
    async def test_most_reservations_cost_no_round_trip(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        process = start(Rates(600_000, 600_000_000))
        asked = 0
        evaluate = process.redis.evaluate

        async def counting(script: Script, key: str, *arguments: str | float) -> object:
            nonlocal asked
            asked += 1
            return await evaluate(script, key, *arguments)

        monkeypatch.setattr(process.redis, "evaluate", counting)
        for _ in range(20):
            for _ in range(100):
                hold = await process.limiter.acquire("acme", 1_000, FAR)
                hold.settle(TokenUsage(visible_output_tokens=1_000))
            await process.coordination.sync()
        assert asked <= 200

    async def test_what_is_not_needed_is_given_back(self, start: Start) -> None:
        one, two = start(Rates(None, 6_000)), start(Rates(None, 6_000))
        for _ in range(3):
            await one.take(100)
            await one.coordination.sync()
        for _ in range(2):
            await one.coordination.sync()
        await two.take(5_690)
        assert two.granted == 5_690


class TestWithoutRedis:
    async def test_each_keeps_to_its_share_and_says_so(self) -> None:
        process = Process("redis://127.0.0.1:1/0", "test:none", Rates(None, 6_000))
        await process.take(1_000)
        state = process.state()
        assert (state.capacity, state.shared) == (3_000, False)
        assert state.available == pytest.approx(2_000, abs=50)
        await process.close()

    async def test_it_shares_again_once_redis_is_back(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        process = start(Rates(None, 6_000))
        await process.coordination.sync()
        evaluate = process.redis.evaluate

        async def away(*_: object) -> object:
            raise StoreUnavailable("Redis")

        monkeypatch.setattr(process.redis, "evaluate", away)
        await process.take(1_000)
        assert not process.state().shared
        monkeypatch.setattr(process.redis, "evaluate", evaluate)
        await process.coordination.sync()
        assert process.state().shared
        assert process.state().available < 5_200


class TestAFullRedis:
    async def test_keeps_no_one_waiting_and_is_used_again_once_it_has_room(self, start: Start, valkey_url: str) -> None:
        one = start(Rates(60, 6_000))
        with full_redis(valkey_url):
            await one.coordination.sync()
            async with asyncio.timeout(5):
                await one.take(100)
            assert not one.state().shared
        await one.coordination.sync()
        assert one.state().shared


class TestWhatNobodyForesaw:
    async def test_does_not_end_what_processes_report_each_other(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        one = start(Rates(60, 6_000))
        rounds: asyncio.Queue[int] = asyncio.Queue()

        async def surprise() -> None:
            rounds.put_nowait(1)
            raise ValueError

        monkeypatch.setattr(one.coordination, "sync", surprise)
        monkeypatch.setattr("app.llm.resilience.coordination.AFTER_A_SURPRISE_SECONDS", 0.0)
        running = asyncio.create_task(one.coordination.run())
        async with asyncio.timeout(10):
            assert [await rounds.get(), await rounds.get()] == [1, 1]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class TestPeers:
    async def test_every_process_that_is_alive_counts(self, start: Start) -> None:
        processes = [start(Rates(None, 60)) for _ in range(3)]
        for process in [*processes, *processes]:
            await process.coordination.sync()
        left = processes.pop()
        await left.coordination.leave()
        last = start(Rates(None, 60))
        await last.coordination.sync()
        assert last.coordination.peers.count == 3
