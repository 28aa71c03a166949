"""Paid calls in more than one process: a repeated key meets the call that came first, wherever it runs and however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from redis.asyncio import Redis

from app.access.principal import Principal, Scope
from app.costs.budgets import BudgetScope, NewBudget
from app.costs.holds import AdmissionRequest, Admitted, Joined, Settlement
from app.costs.queries import CostFilter
from app.costs.reports import UsageRecord
from app.domain.attempts import AttemptOutcome
from app.domain.errors import Forbidden, Refused, StoreUnavailable
from app.domain.money import ZERO
from app.domain.paging import PageRequest
from app.domain.problems import Conflict, InvalidInput, ProblemCode
from app.gateway.completions import CompletionRequest, CompletionStatus
from app.gateway.embeddings import EmbeddingsRequest
from app.llm.messages import FinishReason, JsonSchemaFormat
from app.llm.routing import ProvidersFailed
from app.runtime.process_identity import identity
from app.services import Services
from app.settings import ContentSettings, ModelSettings, RouteSettings, Settings
from tests.app.access.principals import principal
from tests.app.conftest import OpenProcess
from tests.app.gateway.admissions import admit_only
from tests.services import ANTHROPIC, OPENAI, Stores, asked
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


async def records(services: Services) -> Sequence[UsageRecord]:
    """What the ledger has of ACME's attempts."""
    ever = CostFilter(datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), (ACME.tenant,))
    return (await services.reports.records(ever, PageRequest(100))).nodes


async def failure(services: Services, request: CompletionRequest, caller: Principal = ACME) -> object:
    with pytest.raises(Refused) as caught:
        await services.gateway.complete(request, caller)
    return caught.value.reason


def sent(simulator: RunningSimulator) -> int:
    return sum(entry.operation == "completion" for entry in simulator.log())


class Held:
    """What a budget over everything holds and was charged."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def begin(self, limit: str = "100") -> Held:
        self._key = (await self._services.budgets.create(NewBudget("all", BudgetScope(tenant="acme"), Decimal(limit)))).key
        return self

    async def figures(self) -> tuple[Decimal, Decimal]:
        """Held and spent, as the primary has them."""
        found = (await self._services.budgets.by_keys([self._key], None, primary=True))[self._key]
        return found.held_usd, found.spent_usd


class TestACompletion:
    @pytest.mark.parametrize("model", [ANTHROPIC, OPENAI, "default"])
    async def test_is_in_the_ledger_when_its_caller_has_it(self, services: Services, model: str) -> None:
        budget = await Held(services).begin()
        completion = await services.gateway.complete(asked(model=model), ACME)
        assert await services.gateway.completion(completion.key, ACME) == completion
        (record,) = await records(services)
        assert (record.cost_usd, record.confirmed) == (completion.cost_usd, True)
        assert await budget.figures() == (ZERO, completion.cost_usd)

    async def test_past_its_deadline_is_a_failure_that_holds_nothing(
        self, services: Services, simulator: RunningSimulator
    ) -> None:
        simulator.post({"operation": "completion", "fault": "silent", "count": None})
        budget = await Held(services).begin()
        problem = await failure(services, asked(timeout=0.3))
        assert isinstance(problem, ProvidersFailed)
        assert (problem.code, [each.outcome for each in problem.attempts]) == (ProblemCode.TIMEOUT, [AttemptOutcome.TIMED_OUT])
        assert [record.outcome for record in await records(services)] == [AttemptOutcome.TIMED_OUT]
        assert (await budget.figures())[0] == 0

    async def test_whose_answer_came_broken_is_charged_an_estimate_and_not_bought_again(
        self, services: Services, simulator: RunningSimulator
    ) -> None:
        simulator.post({"operation": "completion", "fault": "malformed"})
        problem = await failure(services, asked())
        [broken] = await records(services)
        assert (broken.outcome, broken.confirmed, sent(simulator)) == (AttemptOutcome.FAILED, False, 1)
        assert 0 < broken.usage.output_tokens <= 200
        assert isinstance(problem, ProvidersFailed)
        assert [attempt.usage for attempt in problem.attempts] == [broken.usage]

    async def test_that_is_not_settled_is_never_shown(
        self, services: Services, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The hold stays, so that the sweep finds what was billed."""
        budget = await Held(services).begin()

        async def unavailable(_: Settlement) -> None:
            raise StoreUnavailable("PostgreSQL")

        with monkeypatch.context() as patched:
            patched.setattr(services.ledger, "settle", unavailable)
            with pytest.raises(StoreUnavailable):
                await services.gateway.complete(asked(), ACME)
        assert sent(simulator) == 1
        assert (await budget.figures())[0] > 0

    async def test_goes_on_when_its_caller_leaves(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post({"operation": "completion", "headers_delay_ms": 300})
        leaving = asyncio.create_task(services.gateway.complete(asked(key="k"), ACME))
        await asyncio.to_thread(simulator.seen, 1)
        leaving.cancel()
        completion = await services.gateway.complete(asked(key="k"), ACME)
        assert (completion.status, sent(simulator)) == (CompletionStatus.FINISHED, 1)

    async def test_that_is_cancelled_charges_what_was_asked(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post({"operation": "completion", "headers_delay_ms": 5000})
        budget = await Held(services).begin()
        waiting = asyncio.create_task(services.gateway.complete(asked(key="k"), ACME))
        await asyncio.to_thread(simulator.seen, 1)
        running = await services.gateway.start(asked(key="k"), ACME)
        await services.gateway.cancel(running.key, ACME)
        completion = await waiting
        assert (completion.status, completion.finish_reason) == (CompletionStatus.CANCELLED, FinishReason.CANCELLED)
        (record,) = await records(services)
        assert (record.outcome, record.confirmed) == (AttemptOutcome.CANCELLED, False)
        assert await budget.figures() == (ZERO, completion.cost_usd)


class TestACompletionThatIsRefused:
    """Before anything is held or sent."""

    @pytest.mark.parametrize(
        ("request_", "code"),
        [
            (asked(model="nowhere/model"), ProblemCode.NO_ROUTE),
            (asked(model="no-such-route"), ProblemCode.NO_ROUTE),
            (asked(model=ANTHROPIC, cap=1_000_000), ProblemCode.BUDGET_EXCEEDED),
        ],
    )
    async def test_is_informed_why(
        self, services: Services, simulator: RunningSimulator, request_: CompletionRequest, code: ProblemCode
    ) -> None:
        budget = await Held(services).begin("0.001")
        problem = await failure(services, request_)
        assert getattr(problem, "code", None) is code
        assert (sent(simulator), list(await records(services))) == (0, [])
        assert await budget.figures() == (ZERO, ZERO)

    async def test_for_what_no_model_could_be_reported(self, services: Services, simulator: RunningSimulator) -> None:
        budget = await Held(services).begin()
        for format_ in (JsonSchemaFormat("odd", {"type": "nothing"}), JsonSchemaFormat("far", {"$ref": "https://example.com/s"})):
            problem = await failure(services, replace(asked(key=format_.name), response_format=format_))
            assert isinstance(problem, InvalidInput)
            assert problem.path == ("responseFormat", "jsonSchema", "schema")
        assert (sent(simulator), list(await records(services))) == (0, [])
        assert await budget.figures() == (ZERO, ZERO)

    async def test_for_its_keys_own_limit(self, services: Services, simulator: RunningSimulator) -> None:
        limited = principal(Scope.COMPLETIONS, requests_per_minute=1)
        await services.gateway.complete(asked(), limited)
        problem = await failure(services, asked(), limited)
        assert getattr(problem, "code", None) is ProblemCode.RATE_LIMITED
        assert sent(simulator) == 1

    async def test_for_another_agent_than_its_keys(self, services: Services, simulator: RunningSimulator) -> None:
        bound = principal(Scope.COMPLETIONS, agent="research")
        with pytest.raises(Forbidden):
            await services.gateway.complete(replace(asked(), agent="sales"), bound)
        assert sent(simulator) == 0


class TestARepeatedKeyOfACompletion:
    async def test_in_two_processes_at_once_is_one_call(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator
    ) -> None:
        other = await open_process()
        simulator.post({"operation": "completion", "headers_delay_ms": 200})
        calls = [each.gateway.complete(asked(key="k"), ACME) for each in (services, other) for _ in range(5)]
        answers = await asyncio.gather(*calls)
        assert len({answer.key for answer in answers}) == 1
        assert len(await records(services)) == sent(simulator) == 1

    async def test_gives_the_answer_again_wherever_it_was_made(self, services: Services, open_process: OpenProcess) -> None:
        other = await open_process()
        first = await services.gateway.complete(asked(key="k"), ACME)
        assert await other.gateway.complete(asked(key="k"), ACME) == first

    async def test_with_another_input_is_a_conflict(self, services: Services) -> None:
        await services.gateway.complete(asked(key="k"), ACME)
        assert isinstance(await failure(services, asked("Other", key="k")), Conflict)

    async def test_need_not_wait_for_the_lease_of_a_dead_process_of_its_machine(
        self, services: Services, open_process: OpenProcess, stores: Stores
    ) -> None:
        """The lease would last for minutes; the owner that it names is no more."""
        owner = await open_process()
        admitted = await admit_only(owner, asked(key="k"), ACME)
        machine = identity().rpartition(" ")[0].rpartition(" ")[0]
        async with Redis.from_url(stores.valkey_url) as redis:
            await redis.set(f"greenlang:stream:{{{admitted.call.hex}}}:lease", f"{machine} 999999999 1", ex=600)
        problem = await asyncio.wait_for(failure(services, asked(key="k")), 20)
        again = await services.gateway.complete(asked(key="k"), ACME)
        assert isinstance(problem, ProvidersFailed)
        assert problem.retryable
        assert (again.key, again.status) == (admitted.call, CompletionStatus.FINISHED)

    async def test_waits_for_a_call_whose_owner_lives(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator
    ) -> None:
        """Also where that takes longer than a doubt."""
        other = await open_process()
        simulator.post({"operation": "completion", "first_token_delay_ms": 900, "headers_delay_ms": 900})
        first = asyncio.create_task(other.gateway.complete(asked(key="k", cap=4000), ACME))
        await asyncio.to_thread(simulator.seen, 1)
        assert await services.gateway.complete(asked(key="k", cap=4000), ACME) == await first
        assert sent(simulator) == 1


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

    async def test_is_informed_the_failure_of_the_call_that_came_first(
        self, services: Services, simulator: RunningSimulator
    ) -> None:
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
