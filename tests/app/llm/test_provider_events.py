"""Changes of providers, reported once over all processes and in one order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import FailureKind
from app.events.heartbeat import Heartbeat
from app.events.relay import Relay
from app.llm.probes import HealthChanged, HealthStatus
from app.llm.provider_events import ProviderChanged, ProviderEvent, ProviderEvents
from app.llm.resilience.breaker import BreakerStatus
from app.runtime.clock import SystemClock
from app.runtime.tasks import end_tasks
from app.settings import DatabaseSettings
from tests.app.llm.fleets import Bench, fail
from tests.app.llm.test_fleet import open_the_circuit

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    engines = build_engines(database_url, [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


class Process:
    """One server process: a fleet of the provider `a`, and its share of the events."""

    def __init__(self, sessions: Sessions) -> None:
        self.bench = Bench({"a": [fail(FailureKind.CONNECT_TIMEOUT)]})
        self.relay = Relay(sessions, SystemClock())
        self.events = ProviderEvents(self.bench.fleet, sessions, self.relay, SystemClock())

    def turn(self, health: HealthStatus, provider: str = "a") -> None:
        self.bench.fleet.publish(HealthChanged(provider, health, self.bench.clock.now()))


@pytest.fixture
async def processes(sessions: Sessions) -> AsyncIterator[tuple[Process, Process]]:
    pair = Process(sessions), Process(sessions)
    tasks = [asyncio.create_task(run) for each in pair for run in (each.relay.run(), each.events.run())]
    yield pair
    await end_tasks(tasks)
    for each in pair:
        await each.bench.fleet.close()


async def changes(events: AsyncGenerator[ProviderEvent, None], count: int) -> list[ProviderChanged]:
    found: list[ProviderChanged] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            event = await anext(events)
            if isinstance(event, ProviderChanged):
                found.append(event)
    return found


class TestChanges:
    async def test_reach_every_process_once(self, processes: tuple[Process, Process]) -> None:
        one, two = processes
        async with aclosing(two.events.follow(None)) as events:
            assert isinstance(await anext(events), Heartbeat)
            one.turn(HealthStatus.DOWN)
            two.turn(HealthStatus.DOWN)
            [down] = await changes(events, 1)
            two.turn(HealthStatus.UP)
            one.turn(HealthStatus.UP)
            [up] = await changes(events, 1)
        assert [(each.provider.name, each.model, each.breaker, each.health) for each in (down, up)] == [
            ("a", None, None, HealthStatus.DOWN),
            ("a", None, None, HealthStatus.UP),
        ]

    async def test_are_reported_again_behind_a_cursor(self, processes: tuple[Process, Process]) -> None:
        one, two = processes
        async with aclosing(one.events.follow(None)) as events:
            start = await anext(events)
            one.turn(HealthStatus.DEGRADED)
            one.turn(HealthStatus.UP)
            seen = await changes(events, 2)
        async with aclosing(two.events.follow(start.cursor)) as again:
            assert [each.cursor for each in await changes(again, 2)] == [each.cursor for each in seen]

    async def test_of_circuits_name_the_model(self, processes: tuple[Process, Process]) -> None:
        one, two = processes
        async with aclosing(two.events.follow(None)) as events:
            assert isinstance(await anext(events), Heartbeat)
            await open_the_circuit(one.bench)
            await open_the_circuit(two.bench)
            found = await changes(events, 2)
        assert {(each.model, each.breaker) for each in found} == {("m", BreakerStatus.OPEN), (None, None)}
        assert {each.health for each in found} == {HealthStatus.DOWN}

    async def test_of_providers_that_are_not_configured_here_are_left_out(self, processes: tuple[Process, Process]) -> None:
        one, two = processes
        async with aclosing(two.events.follow(None)) as events:
            assert isinstance(await anext(events), Heartbeat)
            one.turn(HealthStatus.DOWN, "elsewhere")
            one.turn(HealthStatus.DOWN)
            [found] = await changes(events, 1)
        assert found.provider.name == "a"
