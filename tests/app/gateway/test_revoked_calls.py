"""A key is revoked together with its calls: every process ends those that it runs, and what they produced stays charged."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pytest

from app.access.key_rows import NewKey
from app.access.principal import Principal, Scope
from app.costs.budgets import BudgetScope, NewBudget
from app.domain.errors import Refused
from app.domain.money import ZERO
from app.domain.problems import ProblemCode
from app.gateway.completions import Completion, CompletionStatus
from app.gateway.embeddings import EmbeddingsRequest
from app.gateway.lifecycle import KEY_REVOKED
from app.gateway.streams.events import CompletionCancelled, CompletionDelta, CompletionEvent
from app.llm.routing import ProvidersFailed
from app.services import Services
from app.settings import ModelSettings, ProviderTimeouts, RouteSettings, Settings
from tests.app.conftest import OpenProcess
from tests.services import OPENAI, Stores, asked
from tests.simulators import RunningSimulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

EMBEDDER = "openai/text-embedding-3-small"
PATIENT = ProviderTimeouts(
    connect=timedelta(seconds=5), first_token=timedelta(seconds=50), idle=timedelta(seconds=50), total=timedelta(seconds=50)
)
DRIPPING = "Go on [[simulator tokens=200 fault=slow-drip]]"


def patient(settings: Settings) -> Settings:
    anthropic, openai = settings.providers
    openai = openai.model_copy(update={"models": (*openai.models, ModelSettings(name="text-embedding-3-small"))})
    routes = (*settings.routes, RouteSettings(name="embeddings", targets=(EMBEDDER,)))
    return settings.model_copy(update={"providers": (anthropic, openai), "routes": routes})


@dataclass(frozen=True)
class Key:
    id: str
    caller: Principal


async def make_key(services: Services, name: str) -> Key:
    made = await services.keys.create(NewKey(name, "acme", frozenset({Scope.COMPLETIONS})))
    return Key(made.key.id, await services.keys.authenticate(made.secret))


@pytest.fixture
async def processes(open_process: OpenProcess, stores: Stores, simulator: RunningSimulator) -> tuple[Services, Services]:
    settings = patient(stores.settings(simulator, timeouts=PATIENT))
    return await open_process(settings), await open_process(settings)


async def whole(services: Services, key: Key) -> asyncio.Task[Completion]:
    return asyncio.create_task(services.gateway.complete(asked(DRIPPING, model=OPENAI), key.caller))


async def some_text(services: Services, started: Completion, key: Key, seen: list[CompletionEvent]) -> None:
    """Follows until a part of the answer has come."""
    async with aclosing(services.gateway.events(started.key, None, key.caller)) as events:
        async for event in events:
            seen.append(event)
            if isinstance(event, CompletionDelta):
                return


async def ended(services: Services, completion: UUID, key: Key) -> Completion:
    async with asyncio.timeout(20):
        while True:
            found = await services.gateway.completion(completion, key.caller)
            if found is not None and found.status is not CompletionStatus.RUNNING:
                return found
            await asyncio.sleep(0.02)


async def arrived(simulator: RunningSimulator, operation: str, count: int) -> None:
    async with asyncio.timeout(20):
        while sum(entry.operation == operation for entry in simulator.log()) < count:  # noqa: ASYNC110 (another process's log)
            await asyncio.sleep(0.02)


class TestTheCallsOfARevokedKey:
    async def test_end_in_every_process_and_those_of_another_key_go_on(
        self, processes: tuple[Services, Services], simulator: RunningSimulator
    ) -> None:
        here, there = processes
        budget = await here.budgets.create(NewBudget("all", BudgetScope(tenant="acme"), ZERO + 100))
        leaked, good = await make_key(here, "leaked"), await make_key(here, "good")
        calls = [await whole(services, leaked) for services in processes]
        others = await here.gateway.start(asked(DRIPPING, model=OPENAI), good.caller)
        started = [await services.gateway.start(asked(DRIPPING, model=OPENAI), leaked.caller) for services in processes]
        seen: list[CompletionEvent] = []
        await some_text(there, started[1], leaked, seen)
        await arrived(simulator, "completion", 5)

        await here.keys.revoke(leaked.id, cancel_calls=True)
        async with asyncio.timeout(10):
            completions = await asyncio.gather(*calls)
        completions += [await ended(here, each.key, leaked) for each in started]

        assert [(each.status, each.notes) for each in completions] == [(CompletionStatus.CANCELLED, (KEY_REVOKED,))] * 4
        assert completions[3].text
        assert all(each.cost_usd is not None and each.cost_usd > 0 for each in completions)
        found = await here.gateway.completion(others.key, good.caller)
        assert found is not None
        assert found.status is CompletionStatus.RUNNING
        await here.gateway.cancel(others.key, good.caller)
        (after,) = (await here.budgets.by_keys([budget.key], None, primary=True)).values()
        last = await ended(here, others.key, good)
        assert last.notes == ()
        assert after.held_usd == ZERO
        assert after.spent_usd == sum((each.cost_usd or ZERO for each in (*completions, last)), ZERO)

    async def test_report_those_who_watch(self, processes: tuple[Services, Services]) -> None:
        here, there = processes
        leaked = await make_key(here, "leaked")
        started = await here.gateway.start(asked(DRIPPING, model=OPENAI), leaked.caller)
        seen: list[list[CompletionEvent]] = [[], []]

        async def watch(services: Services, events: list[CompletionEvent]) -> None:
            async with aclosing(services.gateway.events(started.key, None, leaked.caller)) as stream:
                events.extend([event async for event in stream])

        watching = [asyncio.create_task(watch(each, events)) for each, events in zip(processes, seen, strict=True)]
        await some_text(here, started, leaked, [])
        await there.keys.revoke(leaked.id, cancel_calls=True)
        async with asyncio.timeout(15):
            await asyncio.gather(*watching)
        for events in seen:
            last = events[-1]
            assert isinstance(last, CompletionCancelled)
            assert last.completion.notes == (KEY_REVOKED,)

    async def test_embeddings_end_as_well(self, processes: tuple[Services, Services], simulator: RunningSimulator) -> None:
        here, there = processes
        leaked = await make_key(here, "leaked")
        simulator.post({"operation": "embedding", "fault": "silent", "count": None})
        call = asyncio.create_task(here.gateway.embed(EmbeddingsRequest(texts=("A text.",), model=EMBEDDER), leaked.caller))
        await arrived(simulator, "embedding", 1)
        await there.keys.revoke(leaked.id, cancel_calls=True)
        async with asyncio.timeout(10):
            with pytest.raises(Refused) as caught:
                await call
        reason = caught.value.reason
        assert isinstance(reason, ProvidersFailed)
        assert (reason.message, reason.code, reason.retryable) == (KEY_REVOKED, ProblemCode.CANCELLED, False)

    async def test_go_on_if_they_are_not_cancelled_until_they_are(self, processes: tuple[Services, Services]) -> None:
        here, there = processes
        leaked = await make_key(here, "leaked")
        started = await here.gateway.start(asked(DRIPPING, model=OPENAI), leaked.caller)
        await there.keys.revoke(leaked.id)
        await here.keys.refresh()
        await some_text(here, started, leaked, [])
        await there.keys.revoke(leaked.id, cancel_calls=True)
        assert (await ended(there, started.key, leaked)).notes == (KEY_REVOKED,)

    async def test_that_begin_after_it_cost_nothing(
        self, processes: tuple[Services, Services], simulator: RunningSimulator
    ) -> None:
        """A request whose key was checked in time, and whose body came late."""
        here, _ = processes
        leaked = await make_key(here, "leaked")
        await here.keys.revoke(leaked.id, cancel_calls=True)
        async with asyncio.timeout(10):
            while not here.keys.calls.is_cancelled(leaked.caller.key_id):  # noqa: ASYNC110 (a notice of PostgreSQL)
                await asyncio.sleep(0.02)
            completion = await here.gateway.complete(asked(DRIPPING, model=OPENAI), leaked.caller)
        assert (completion.status, completion.notes) == (CompletionStatus.CANCELLED, (KEY_REVOKED,))
        assert completion.cost_usd == ZERO
        assert [entry for entry in simulator.log() if entry.operation == "completion"] == []
