from __future__ import annotations

import asyncio
from random import Random

import pytest

from app.domain.errors import FailureKind, ProviderError
from app.llm.probes import TIMEOUT_SECONDS, HealthChanged, HealthStatus, Monitor
from app.llm.providers.scripted import ScriptedProvider
from app.llm.resilience.breaker import BreakerStatus
from tests.app.llm.fleets import HELLO
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

AWAY = ProviderError(FailureKind.CONNECTION)


class Bench:
    def __init__(self, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self.clock = ManualClock()
        self.provider = ScriptedProvider("a", [HELLO], self.clock)
        self.breakers = [BreakerStatus.CLOSED, BreakerStatus.CLOSED]
        self.reported: list[HealthChanged] = []
        self.monitor = Monitor(
            self.provider, lambda: self.breakers, self.reported.append, self.clock, Random(1), timeout_seconds=timeout_seconds
        )


class TestHealth:
    async def test_it_is_unknown_until_the_first_probe(self) -> None:
        bench = Bench()
        assert (bench.monitor.health, bench.monitor.checked_at) == (HealthStatus.UNKNOWN, None)
        await bench.monitor.probe()
        assert (bench.monitor.health, bench.monitor.checked_at) == (HealthStatus.UP, bench.clock.now())

    async def test_one_failed_probe_degrades_and_two_are_down(self) -> None:
        bench = Bench()
        bench.provider.probe_error = AWAY
        await bench.monitor.probe()
        await bench.monitor.probe()
        bench.provider.probe_error = None
        await bench.monitor.probe()
        assert [change.health.value for change in bench.reported] == ["DEGRADED", "DOWN", "UP"]

    async def test_a_probe_that_our_own_calls_leave_no_room_for_says_nothing(self) -> None:
        bench = Bench()
        await bench.monitor.probe()
        bench.provider.probe_error = ProviderError(FailureKind.POOL_EXHAUSTED)
        for _ in range(3):
            await bench.monitor.probe()
        assert bench.monitor.health is HealthStatus.UP

    @pytest.mark.parametrize(
        ("breakers", "health"),
        [
            ([BreakerStatus.OPEN, BreakerStatus.CLOSED], HealthStatus.DEGRADED),
            ([BreakerStatus.OPEN, BreakerStatus.OPEN], HealthStatus.DOWN),
            ([BreakerStatus.OPEN, BreakerStatus.HALF_OPEN], HealthStatus.DEGRADED),
            ([], HealthStatus.UP),
        ],
    )
    async def test_open_circuits_weigh_more_than_a_good_probe(self, breakers: list[BreakerStatus], health: HealthStatus) -> None:
        bench = Bench()
        await bench.monitor.probe()
        bench.breakers = breakers
        assert bench.monitor.health is health


class TestRhythm:
    async def test_it_asks_at_once_and_then_about_every_thirty_seconds(self) -> None:
        bench = Bench()
        task = asyncio.create_task(bench.monitor.run())
        await bench.clock.advance(600)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert 17 <= bench.provider.probes <= 25

    async def test_it_does_not_ask_while_a_breaker_knows_better(self) -> None:
        bench = Bench()
        bench.breakers = [BreakerStatus.OPEN]
        task = asyncio.create_task(bench.monitor.run())
        await bench.clock.advance(100)
        assert bench.provider.probes == 0
        bench.breakers = [BreakerStatus.CLOSED]
        await bench.clock.advance(40)
        assert bench.provider.probes == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def test_a_probe_that_hangs_is_a_failed_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bench = Bench(timeout_seconds=0.01)

        async def hang() -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(bench.provider, "probe", hang)
        await bench.monitor.probe()
        assert bench.monitor.health is HealthStatus.DEGRADED
