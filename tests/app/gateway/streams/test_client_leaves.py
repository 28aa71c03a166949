"""The client of a stream leaves before its call has ended: the call runs on, or is cancelled where its client asked for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from app.access.principal import Scope
from app.domain.money import ZERO
from app.gateway.completions import CachePolicy, Completion, CompletionStatus, OnClientLeave
from app.gateway.streams.events import (
    CompletionCancelled,
    CompletionDelta,
    CompletionEvent,
    CompletionFinished,
    CompletionStarted,
)
from app.services import Services
from app.settings import ProviderTimeouts
from tests.app.access.principals import principal
from tests.app.conftest import OpenProcess
from tests.app.gateway.streams.test_streams import SLOW, all_of, last, seen_by, text_of, until
from tests.app.gateway.test_gateway import Held
from tests.services import Stores, asked
from tests.simulators import RunningSimulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ACME = principal(Scope.COMPLETIONS)
LEAVING = replace(asked(), on_client_leave=OnClientLeave.CANCEL)


async def started_by(events: AsyncGenerator[CompletionEvent, None]) -> CompletionStarted:
    first = (await until(events, CompletionDelta))[0]
    assert isinstance(first, CompletionStarted)
    return first


async def ended(services: Services, started: CompletionStarted) -> Completion:
    async with asyncio.timeout(10):
        while True:
            found = await services.gateway.completion(started.key, ACME)
            assert found is not None
            if found.status is not CompletionStatus.RUNNING:
                return found
            await asyncio.sleep(0.02)


class TestAClientThatAskedForCancel:
    async def test_ends_the_call_when_it_leaves(self, services: Services, simulator: RunningSimulator) -> None:
        budget = await Held(services).begin()
        simulator.post(SLOW)
        started = await started_by(services.gateway.stream(LEAVING, ACME))
        completion = await ended(services, started)
        assert completion.status is CompletionStatus.CANCELLED
        assert completion.text
        assert completion.cost_usd
        assert await budget.figures() == (ZERO, completion.cost_usd)

    async def test_ends_the_call_also_before_its_first_word(
        self, open_process: OpenProcess, stores: Stores, simulator: RunningSimulator
    ) -> None:
        services = await open_process(stores.settings(simulator, timeouts=ProviderTimeouts()))
        simulator.post({"operation": "completion", "headers_delay_ms": 30_000})
        request = replace(LEAVING, idempotency_key="k")
        leaving = asyncio.create_task(all_of(services.gateway.stream(request, ACME)))
        await seen_by(simulator, open_too=True)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        again = await services.gateway.start(request, ACME)
        events = await all_of(services.gateway.events(again.key, None, ACME))
        assert isinstance(events[-1], CompletionCancelled)

    async def test_makes_no_call_of_its_own_after_it_waited_for_another_answer(
        self, services: Services, simulator: RunningSimulator
    ) -> None:
        budget = await Held(services).begin()
        simulator.post(SLOW)
        request = replace(LEAVING, cache=CachePolicy())
        async with aclosing(services.gateway.stream(request, ACME)) as events:
            started = await anext(events)
            assert isinstance(started, CompletionStarted)
            waiting = asyncio.create_task(all_of(services.gateway.stream(request, ACME)))
            for _ in range(10):
                await services.gateway.completion(started.key, ACME)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert isinstance(await anext(events), CompletionDelta)
        first = await ended(services, started)
        assert first.status is CompletionStatus.CANCELLED
        async with asyncio.timeout(10):
            held = None
            while held != ZERO:
                held, spent = await budget.figures()
        assert spent == first.cost_usd
        assert len(await seen_by(simulator)) == 1

    async def test_ends_it_for_those_who_watch_as_well(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        async with aclosing(services.gateway.stream(LEAVING, ACME)) as events:
            started = await anext(events)
            assert isinstance(started, CompletionStarted)
            watching = asyncio.create_task(all_of(services.gateway.events(started.key, None, ACME)))
            await anext(events)
        seen = await watching
        assert last(seen, CompletionCancelled).completion.text == text_of(seen)

    async def test_changes_nothing_by_leaving_after_the_end(self, services: Services) -> None:
        events = await all_of(services.gateway.stream(LEAVING, ACME))
        completion = last(events, CompletionFinished).completion
        assert await services.gateway.completion(completion.key, ACME) == completion


class TestOthersWhoLeave:
    async def test_a_client_that_did_not_ask_for_it_leaves_the_call_running(
        self, services: Services, simulator: RunningSimulator
    ) -> None:
        simulator.post(SLOW)
        started = await started_by(services.gateway.stream(asked(), ACME))
        assert (await ended(services, started)).status is CompletionStatus.FINISHED

    async def test_a_repeat_that_joined_the_call_leaves_it_running(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        request = replace(LEAVING, idempotency_key="k")
        first = asyncio.create_task(all_of(services.gateway.stream(request, ACME)))
        await seen_by(simulator, open_too=True)
        await until(services.gateway.stream(request, ACME), CompletionDelta)
        assert isinstance((await first)[-1], CompletionFinished)

    async def test_a_watcher_leaves_it_running(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        async with asyncio.timeout(30), aclosing(services.gateway.stream(LEAVING, ACME)) as events:
            started = await anext(events)
            assert isinstance(started, CompletionStarted)
            await until(services.gateway.events(started.key, None, ACME), CompletionDelta)
            seen = [event async for event in events]
        assert isinstance(seen[-1], CompletionFinished)

    async def test_a_started_call_has_no_client_to_leave(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        completion = await services.gateway.start(LEAVING, ACME)
        events = await all_of(services.gateway.events(completion.key, None, ACME))
        assert isinstance(events[-1], CompletionFinished)
