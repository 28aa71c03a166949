from __future__ import annotations

import asyncio
from decimal import Decimal
from random import Random
from uuid import uuid4

import pytest

from app.domain.errors import FailureKind, Refused, SettingsError
from app.llm.fleet import BreakerChanged, ModelInfo, build_fleet
from app.llm.probes import HealthChanged, HealthStatus
from app.llm.providers.scripted import ScriptedProvider
from app.llm.resilience.breaker import BreakerStatus
from app.llm.resilience.coordination import Coordination
from app.llm.resilience.limiter import LimiterKind
from app.llm.routing import Target
from app.redis.clients import connect_redis
from app.runtime.clock import SystemClock
from app.settings import ModelSettings, ProviderLimits, RedisSettings, RouteSettings, Settings
from tests.app.llm.fleets import HELLO, Bench, fail, provider_settings
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio


async def open_the_circuit(bench: Bench) -> None:
    for _ in range(5):
        with pytest.raises(Refused):
            await bench.complete()


class TestStatus:
    async def test_a_provider_shows_breakers_limiters_and_metrics(self) -> None:
        bench = Bench({"a": [HELLO], "b": [HELLO]}, limits=ProviderLimits(requests_per_minute=60, tokens_per_minute=6_000))
        await bench.complete()
        bench.fleet.add_cost(Target("a", "m"), Decimal("0.5"))
        status = bench.fleet.provider("a")
        assert status is not None
        assert [(each.model, each.breaker.status) for each in status.breakers] == [("m", BreakerStatus.CLOSED)]
        assert [(each.kind, each.capacity, each.shared) for each in status.limiters] == [
            (LimiterKind.REQUESTS, 60, False),
            (LimiterKind.TOKENS, 6_000, False),
        ]
        assert status.limiters[1].available == 6_000 - 12
        assert (status.metrics.requests, status.metrics.success_rate) == (1, 1)
        assert status.metrics.cost_usd == Decimal("0.5")
        assert bench.fleet.provider("nobody") is None
        assert [each.name for each in bench.fleet.providers()] == ["a", "b"]

    async def test_models_are_those_listed_and_those_that_routes_name(self) -> None:
        bench = Bench({"a": [HELLO]}, models={"a": ModelSettings(name="m-1", context_tokens=8_000)})
        assert bench.fleet.models() == [ModelInfo("a", "m-1", 8_000, None)]
        unlisted = Bench({"a": [HELLO], "b": [HELLO]}, unlisted=True)
        assert unlisted.fleet.models("b") == [ModelInfo("b", "m", None, None)]

    async def test_a_provider_without_a_list_keeps_a_bounded_number_of_breakers(self) -> None:
        bench = Bench({"a": [HELLO]}, unlisted=True)
        for number in range(1_000):
            bench.plan(f"a/made-up-{number}")
        status = bench.fleet.provider("a")
        assert status is not None
        assert len(status.breakers) <= 200


class TestRoutes:
    @pytest.mark.parametrize("target", ["m", "nobody/m", "a/other", "a/"])
    def test_one_that_names_what_is_not_configured_stops_the_start(self, target: str) -> None:
        settings = Settings(providers=(provider_settings("a"),), routes=(RouteSettings(name="default", targets=("a/m", target)),))
        clock = ManualClock()
        with pytest.raises(SettingsError, match=r"routes\.0\.targets\.1"):
            build_fleet(settings, {"a": ScriptedProvider("a", [HELLO], clock)}, clock)

    async def test_targets_of_a_provider_that_is_not_enabled_are_left_out(self) -> None:
        settings = Settings(
            providers=(provider_settings("a", enabled=False), provider_settings("b")),
            routes=(RouteSettings(name="default", targets=("a/m", "b/m")),),
        )
        bench = Bench({"a": [HELLO], "b": [HELLO]})
        bench.fleet = build_fleet(settings, bench.providers, bench.clock, random=Random(1))
        assert bench.plan().targets == (Target("b", "m"),)
        assert [route.targets for route in bench.fleet.routes()] == [("a/m", "b/m")]


class TestEvents:
    async def test_breaker_and_health_changes_reach_listeners(self) -> None:
        bench = Bench({"a": [fail(FailureKind.CONNECT_TIMEOUT)]})
        await open_the_circuit(bench)
        changes = [event for event in bench.events if isinstance(event, BreakerChanged | HealthChanged)]
        assert [type(change).__name__ for change in changes] == ["BreakerChanged", "HealthChanged"]
        assert isinstance(changes[1], HealthChanged)
        assert changes[1].health is HealthStatus.DOWN

    async def test_a_circuit_past_its_time_leaves_it_to_the_probes_to_say_how_the_provider_is(self) -> None:
        bench = Bench({"a": [fail(FailureKind.CONNECT_TIMEOUT)]})
        await open_the_circuit(bench)
        bench.fleet.start()
        await bench.clock.advance(30)
        assert [status.health for status in bench.fleet.providers()] == [HealthStatus.DOWN]
        assert bench.providers["a"].probes == 0
        await bench.clock.advance(70)
        assert [status.health for status in bench.fleet.providers()] == [HealthStatus.DEGRADED]
        assert bench.providers["a"].probes > 0
        await bench.fleet.close()


class TestReset:
    async def test_it_closes_one_model_or_all_and_knows_no_one_else(self) -> None:
        bench = Bench({"a": [fail(FailureKind.CONNECT_TIMEOUT)]})
        await open_the_circuit(bench)
        status = await bench.fleet.reset_breaker("a", "m")
        assert status is not None
        assert status.breakers[0].breaker.status is BreakerStatus.CLOSED
        assert await bench.fleet.reset_breaker("a") is not None
        assert await bench.fleet.reset_breaker("nobody") is None
        assert await bench.fleet.reset_breaker("a", "other") is None


class TestLifetime:
    async def test_it_probes_from_the_start_and_leaves_nothing_behind(self) -> None:
        before = asyncio.all_tasks()
        bench = Bench({"a": [HELLO], "b": [HELLO]})
        bench.fleet.start()
        await bench.clock.advance(1)
        assert [status.health for status in bench.fleet.providers()] == [HealthStatus.UP] * 2
        await bench.fleet.close()
        assert all(provider.closed for provider in bench.providers.values())
        assert asyncio.all_tasks() == before

    async def test_two_processes_share_limits_and_circuits(self, valkey_url: str) -> None:
        clock = SystemClock()
        settings = Settings(
            providers=(provider_settings("a", limits=ProviderLimits(requests_per_minute=600, tokens_per_minute=60_000)),),
            routes=(RouteSettings(name="default", targets=("a/m",)),),
        )
        clients = [connect_redis(valkey_url, RedisSettings(), clock) for _ in range(2)]
        fleets = [
            build_fleet(settings, {"a": ScriptedProvider("a", [HELLO], ManualClock())}, clock, redis=client) for client in clients
        ]
        for fleet in fleets:
            fleet.start()
        status = fleets[0].provider("a")
        assert status is not None
        assert [limiter.shared for limiter in status.limiters] == [True, True]
        guarded = fleets[0].find(Target("a", "m"))
        assert guarded is not None
        for _ in range(5):
            permit = await guarded.breaker.enter()
            assert permit is not None
            guarded.breaker.failed(permit)

        def other() -> BreakerStatus:
            found = fleets[1].provider("a")
            assert found is not None
            return found.breakers[0].breaker.status

        async with asyncio.timeout(5):
            while other() is not BreakerStatus.OPEN:
                await clock.sleep(0.01)
        await fleets[1].reset_breaker("a")
        async with asyncio.timeout(5):
            while guarded.breaker.seconds_to_probe > 0:
                await clock.sleep(0.01)
        for fleet, client in zip(fleets, clients, strict=True):
            await fleet.close()
            await client.close()
        assert other() is BreakerStatus.CLOSED


class TestCoordination:
    async def test_without_redis_a_round_changes_nothing_and_raises_nothing(self) -> None:
        clock = SystemClock()
        redis = connect_redis("redis://127.0.0.1:1/0", RedisSettings(), clock)
        coordination = Coordination(redis, clock, expected=4, namespace=f"test:{uuid4().hex}")
        for _ in range(5):
            await coordination.sync()
        assert coordination.peers.count == 4
        await coordination.leave()
        await redis.close()
