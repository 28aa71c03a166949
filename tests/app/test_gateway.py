"""Paid calls in more than one process: a repeated key meets the call that came first, wherever it runs and however it ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from app.access.principal import Scope
from app.attempts import AttemptOutcome
from app.costs.holds import AdmissionRequest, Admitted, Joined
from app.embeddings import EmbeddingsRequest
from app.errors import Refused
from app.llm.routing import ProvidersFailed
from app.problems import Conflict
from app.services import Services
from app.settings import ContentSettings, ModelSettings, RouteSettings, Settings
from tests.app.access.principals import principal
from tests.app.conftest import OpenProcess
from tests.services import OPENAI, Stores, asked
from tests.simulators import RunningSimulator, StepFields

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ACME = principal(Scope.COMPLETIONS)
EMBEDDER = "openai/text-embedding-3-small"
REQUEST = EmbeddingsRequest(texts=("A text.", "Another."), model=EMBEDDER, dimensions=8, idempotency_key="once")
SLOW: StepFields = {"operation": "embedding", "headers_delay_ms": 600, "count": None}


def with_embedder(settings: Settings) -> Settings:
    anthropic, openai = settings.providers
    models = (*openai.models, ModelSettings(name="text-embedding-3-small"), ModelSettings(name="sim-embedding-odd"))
    routes = (*settings.routes, RouteSettings(name="embeddings", targets=(EMBEDDER,)))
    return settings.model_copy(update={"providers": (anthropic, openai.model_copy(update={"models": models})), "routes": routes})


@pytest.fixture
async def services(open_process: OpenProcess, stores: Stores, simulator: RunningSimulator) -> Services:
    return await open_process(with_embedder(stores.settings(simulator)))


def arrived(simulator: RunningSimulator) -> int:
    return sum(entry.operation == "embedding" for entry in simulator.log())


async def admit(services: Services) -> Admitted | Joined:
    """As far as a call gets before anything is sent."""
    call = await services.planner.plan_embeddings(REQUEST, ACME)
    estimate = call.estimate(call.plan.targets[0])
    return await services.ledger.admit(AdmissionRequest(call.key, call.operation, call.payer, estimate, call.idempotency))


async def refusal(services: Services, request: EmbeddingsRequest = REQUEST) -> object:
    with pytest.raises(Refused) as caught:
        await services.gateway.embed(request, ACME)
    return caught.value.reason


class TestARepeatedKey:
    async def test_joins_the_running_call_of_its_own_process(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        first, second = await asyncio.gather(*(services.gateway.embed(REQUEST, ACME) for _ in range(2)))
        assert first == second
        assert arrived(simulator) == 1

    async def test_joins_the_running_call_of_another_process(
        self, services: Services, open_process: OpenProcess, stores: Stores, simulator: RunningSimulator
    ) -> None:
        other = await open_process(with_embedder(stores.settings(simulator)))
        simulator.post(SLOW)
        first, second = await asyncio.gather(*(each.gateway.embed(REQUEST, ACME) for each in (services, other)))
        assert first == second
        assert arrived(simulator) == 1

    async def test_takes_up_a_call_that_ended_elsewhere_without_having_used_anything(
        self, services: Services, open_process: OpenProcess, stores: Stores, simulator: RunningSimulator
    ) -> None:
        """Its limiter had no room; the process that waited for it tries for itself."""
        settings = with_embedder(stores.settings(simulator))
        other = await open_process(settings)
        first = await admit(services)
        assert isinstance(first, Admitted)
        waiting = asyncio.create_task(other.gateway.embed(REQUEST, ACME))
        await asyncio.sleep(0.3)
        await services.ledger.release(first.call)
        made = await asyncio.wait_for(waiting, 10)
        assert (made.dimensions, arrived(simulator)) == (8, 1)

    async def test_is_told_the_failure_of_the_call_that_came_first(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post({"operation": "embedding", "fault": "status", "status": 400, "count": None})
        problems = [await refusal(services) for _ in range(2)]
        assert problems[0] == problems[1]
        assert isinstance(problems[0], ProvidersFailed)
        assert [attempt.outcome for attempt in problems[0].attempts] == [AttemptOutcome.FAILED]
        assert arrived(simulator) == 1

    async def test_is_a_conflict_where_content_is_not_kept(
        self, open_process: OpenProcess, stores: Stores, simulator: RunningSimulator
    ) -> None:
        forgetful = await open_process(with_embedder(stores.settings(simulator, content=ContentSettings(store=False))))
        assert (await forgetful.gateway.embed(REQUEST, ACME)).dimensions == 8
        assert isinstance(await refusal(forgetful), Conflict)
        assert arrived(simulator) == 1


class TestAnEmbeddingsCall:
    async def test_has_an_unknown_cost_where_its_model_has_no_price(self, services: Services) -> None:
        made = await services.gateway.embed(replace(REQUEST, model="openai/sim-embedding-odd"), ACME)
        assert (made.cost_usd, made.usage.confirmed) == (None, True)

    async def test_is_no_completion(self, services: Services) -> None:
        await services.gateway.embed(REQUEST, ACME)
        joined = await admit(services)
        assert await services.ledger.stored(joined.call) is not None
        assert await services.gateway.completion(joined.call, ACME) is None

    async def test_goes_on_when_its_caller_leaves(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        leaving = asyncio.create_task(services.gateway.embed(REQUEST, ACME))
        await asyncio.to_thread(simulator.seen, 1)
        leaving.cancel()
        simulator.clear_scenario()
        made = await services.gateway.embed(REQUEST, ACME)
        assert (len(made.vectors), arrived(simulator)) == (2, 1)


class TestCosts:
    async def test_reach_the_metrics_with_the_settlement(self, services: Services) -> None:
        made = await services.gateway.embed(REQUEST, ACME)
        completion = await services.gateway.complete(asked(model=OPENAI), ACME)
        provider = services.fleet.provider("openai")
        assert provider is not None
        assert provider.metrics.cost_usd == (made.cost_usd or 0) + (completion.cost_usd or 0) > 0
        counted = {
            sample.labels["model"]: sample.value
            for metric in services.metrics.collect()
            for sample in metric.samples
            if sample.name == "greenlang_provider_cost_usd_total"
        }
        assert sum(counted.values()) == pytest.approx(float(provider.metrics.cost_usd))
