"""Several processes' breakers on one real server, each with a client of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from app.llm.resilience.breaker import Breaker, BreakerState, BreakerStatus, Permit
from app.llm.resilience.breaker_shared import BreakerBoard, Circuit, SharedBreaker
from app.redis.clients import connect_redis
from app.runtime.clock import SystemClock
from app.settings import BreakerSettings, RedisSettings

pytestmark = pytest.mark.anyio

PROBE_AFTER = 0.3
SETTINGS = BreakerSettings(failures=5, probe_after=timedelta(seconds=PROBE_AFTER), window_min_calls=1_000)


class Process:
    """What one process has of a target's breaker."""

    def __init__(self, url: str, namespace: str) -> None:
        clock = SystemClock()
        self.redis = connect_redis(url, RedisSettings(), clock)
        self.board = BreakerBoard(self.redis, namespace=namespace)
        self.changes: list[BreakerState] = []
        self.breaker = SharedBreaker(Breaker(SETTINGS, clock, self.changes.append), "a/m", self.board, PROBE_AFTER)

    @property
    def status(self) -> BreakerStatus:
        return self.breaker.state.status

    async def enter(self) -> Permit:
        permit = await self.breaker.enter()
        assert permit is not None
        return permit

    async def succeed(self) -> None:
        self.breaker.succeeded(await self.enter())

    async def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.failed(await self.enter())


Start = Callable[[], Process]


@pytest.fixture
async def start(valkey_url: str) -> AsyncIterator[Start]:
    namespace = f"test:{uuid4().hex}"
    processes: list[Process] = []

    def start_one() -> Process:
        processes.append(Process(valkey_url, namespace))
        return processes[-1]

    yield start_one
    for process in processes:
        await process.redis.close()


async def sync(*processes: Process) -> None:
    for process in processes:
        await process.board.sync()


async def probe_of(*processes: Process) -> tuple[Process, Permit]:
    """Waits until one of them gets the probe."""
    async with asyncio.timeout(5):
        while True:
            for process in processes:
                permit = await process.breaker.enter()
                if permit is not None:
                    return process, permit
            await asyncio.sleep(0.01)


class TestAdoption:
    async def test_who_has_no_recent_success_adopts_anothers_open(self, start: Start) -> None:
        one, idle = start(), start()
        await one.fail(5)
        await sync(one, idle)
        assert idle.status is BreakerStatus.OPEN
        assert idle.breaker.state.opened_count == 1
        assert await idle.breaker.enter() is None

    async def test_who_saw_a_failure_too_adopts_it(self, start: Start) -> None:
        one, doubtful = start(), start()
        await doubtful.succeed()
        await doubtful.fail()
        await one.fail(5)
        await sync(one, doubtful)
        assert doubtful.status is BreakerStatus.OPEN

    async def test_who_just_succeeded_does_not_until_it_fails_itself(self, start: Start) -> None:
        one, healthy = start(), start()
        await healthy.succeed()
        await one.fail(5)
        await sync(one, healthy)
        before = healthy.status
        await healthy.fail()
        await sync(healthy)
        assert [before, healthy.status] == [BreakerStatus.CLOSED, BreakerStatus.OPEN]

    async def test_one_that_no_one_probed_for_long_says_nothing_any_more(self, start: Start) -> None:
        fresh = start()
        old = Circuit(status="OPEN", version=5, opened=1, probe_at=1_000.0, lease_until=0.0, owner="")
        fresh.breaker.learn(old, 1_000.0 + 61_000)
        before = fresh.status
        fresh.breaker.learn(old, 1_000.0 + 59_000)
        assert [before, fresh.status] == [BreakerStatus.CLOSED, BreakerStatus.OPEN]


class TestProbe:
    async def test_one_process_of_all_gets_it_and_its_success_closes_everywhere(self, start: Start) -> None:
        processes = [start() for _ in range(4)]
        await processes[0].fail(5)
        await sync(*processes)
        prober, permit = await probe_of(*processes)
        asked = await asyncio.gather(*(process.breaker.enter() for process in processes for _ in range(5)))
        assert asked == [None] * 20
        prober.breaker.succeeded(permit)
        await sync(prober, *processes)
        assert [process.status for process in processes] == [BreakerStatus.CLOSED] * 4

    async def test_all_asking_at_the_same_moment_get_one_probe(self, start: Start) -> None:
        processes = [start() for _ in range(4)]
        await processes[0].fail(5)
        await sync(*processes)
        await asyncio.sleep(max(process.breaker.seconds_to_probe for process in processes))
        asked = await asyncio.gather(*(process.breaker.enter() for process in processes for _ in range(10)))
        late = [] if any(asked) else [(await probe_of(*processes))[1]]
        assert len([permit for permit in [*asked, *late] if permit is not None]) == 1

    async def test_the_first_token_of_its_stream_closes_everywhere_and_its_cut_opens_again(self, start: Start) -> None:
        one, two = start(), start()
        await one.fail(5)
        await sync(one, two)
        prober, permit = await probe_of(one, two)
        prober.breaker.alive(permit)
        await sync(prober, one, two)
        before = [one.status, two.status]
        prober.breaker.failed(permit)
        await sync(prober, one, two)
        assert before == [BreakerStatus.CLOSED] * 2
        assert [one.status, two.status] == [BreakerStatus.OPEN] * 2
        assert one.breaker.state.opened_count == two.breaker.state.opened_count == 2

    async def test_its_failure_keeps_all_of_them_waiting(self, start: Start) -> None:
        one, two = start(), start()
        await one.fail(5)
        await sync(one, two)
        prober, permit = await probe_of(one, two)
        prober.breaker.failed(permit)
        await sync(prober, one, two)
        assert one.status is BreakerStatus.OPEN
        assert two.status is BreakerStatus.OPEN
        assert 0 < two.breaker.seconds_to_probe <= PROBE_AFTER

    async def test_a_probe_that_said_nothing_is_there_for_the_next_at_once(self, start: Start) -> None:
        one, two = start(), start()
        await one.fail(5)
        await sync(one, two)
        prober, permit = await probe_of(one, two)
        prober.breaker.released(permit)
        await sync(prober, one, two)
        other = two if prober is one else one
        assert (await other.enter()).probe

    async def test_a_caller_that_left_while_it_was_leased_gives_it_back(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = start(), start()
        await one.fail(5)
        await sync(one, two)
        await asyncio.sleep(max(one.breaker.seconds_to_probe, two.breaker.seconds_to_probe))
        leased = asyncio.Event()
        change = one.board.change

        async def answer_never(*asked: Any) -> tuple[bool, float, Circuit]:
            done, _, _ = await change(*asked)
            assert done
            leased.set()
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

        with monkeypatch.context() as patch:
            patch.setattr(one.board, "change", answer_never)
            asking = asyncio.create_task(one.breaker.enter())
            await leased.wait()
            asking.cancel()
            await asyncio.wait([asking])
        await sync(one, two)
        assert (await two.enter()).probe


class TestReset:
    async def test_it_closes_every_processs_breaker(self, start: Start) -> None:
        one, two = start(), start()
        await one.fail(5)
        await sync(one, two)
        await two.breaker.reset()
        await sync(one, two)
        assert [one.status, two.status] == [BreakerStatus.CLOSED] * 2
        assert [state.status.value for state in one.changes] == ["OPEN", "CLOSED"]

    async def test_a_reset_takes_back_what_was_not_reported_yet(self, start: Start) -> None:
        one, two = start(), start()
        await one.fail(5)
        await one.breaker.reset()
        await sync(one, two, one)
        assert [one.status, two.status] == [BreakerStatus.CLOSED] * 2
        assert two.changes == []


class TestWithoutRedis:
    async def test_a_process_decides_alone(self) -> None:
        alone = Process("redis://127.0.0.1:1/0", "test:none")
        await alone.fail(5)
        await sync(alone)
        assert await alone.breaker.enter() is None
        _, permit = await probe_of(alone)
        alone.breaker.succeeded(permit)
        assert alone.status is BreakerStatus.CLOSED
        await alone.breaker.reset()
        await alone.redis.close()

    async def test_a_server_that_lost_everything_does_not_keep_it_open(self, start: Start) -> None:
        one, two = start(), start()
        await one.fail(5)
        await sync(one, two)
        await one.redis.execute(lambda server: server.delete(one.board.key))
        prober, permit = await probe_of(one, two)
        prober.breaker.succeeded(permit)
        await sync(prober, one, two)
        assert [one.status, two.status] == [BreakerStatus.CLOSED] * 2
