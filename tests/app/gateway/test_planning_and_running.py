from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from app.access.principal import Scope
from app.costs.budgets import BudgetScope, BudgetStore, NewBudget
from app.costs.estimate import Estimator
from app.costs.holds import AdmissionRequest, Admitted
from app.costs.ledger import PostgresLedger
from app.costs.prices import PriceBook
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import FailureKind, Forbidden, ProviderError, Refused
from app.domain.ids import new_uuid
from app.domain.money import ZERO
from app.domain.problems import InvalidInput, ProblemCode
from app.domain.usage import ServiceTier, TokenUsage
from app.gateway.completions import (
    Completion,
    CompletionRequest,
    CompletionStatus,
    prompt_texts,
)
from app.gateway.embeddings import EmbeddingsRequest
from app.gateway.media import IMAGE_TOKENS, PAGE_TOKENS, UNSEEN_PDF_PAGES
from app.gateway.planning import CallPlanner, PlannedCall
from app.gateway.running import RunningCompletion
from app.llm.messages import (
    CacheTtl,
    FinishReason,
    ImageUrl,
    InlinePdf,
    Message,
    ModelCall,
    PdfUrl,
    Role,
    Text,
    TextDelta,
    TextDocument,
    Tool,
    ToolCall,
    ToolResult,
)
from app.llm.output_limits import OutputLimits
from app.llm.providers.scripted import Fail, Reply, Step, text_answer
from app.llm.routing import ProvidersFailed, RateLimited, RoutingPreference, RoutingStrategy, Target
from app.runtime.clock import SystemClock
from app.runtime.offload import Offload
from app.settings import DatabaseSettings, ModelSettings, PriceSettings, Settings
from tests.app.access.principals import principal
from tests.app.llm.fleets import HELLO, Bench, fail
from tests.clocks import ManualClock, settle
from tests.services import asked

pytestmark = pytest.mark.anyio

ACME = principal(Scope.COMPLETIONS)
CHEAP = PriceSettings(input_usd=Decimal(1), output_usd=Decimal(2), cache_read_usd=Decimal("0.1"))
EXPENSIVE = PriceSettings(input_usd=Decimal(3), output_usd=Decimal(15), cache_read_usd=Decimal("0.3"))
A, B = Target("a", "m"), Target("b", "n")
NO_ROOM = RateLimited("No room.", timedelta(seconds=1), "a")
CANNOT_SAY = InvalidInput("m does not take seed.", ("seed",))
QUESTION = asked("What is new?", model=None, cap=100)


class Calls:
    """A fleet of the scripted providers `a`, cheap, and `b`, expensive, in front of a real ledger."""

    def __init__(
        self,
        sessions: Sessions,
        estimator: Estimator,
        limits: tuple[int, int] | None = None,
        clock: ManualClock | None = None,
        **scripts: list[Step],
    ) -> None:
        """`limits` are the most that the models of `a` and `b` write."""
        most = limits or (None, None)
        models = {
            "a": ModelSettings(name="m", price=CHEAP, max_output_tokens=most[0]),
            "b": ModelSettings(name="n", price=EXPENSIVE, max_output_tokens=most[1]),
        }
        self.bench = Bench({"a": [HELLO], "b": [HELLO], **scripts}, models=models, clock=clock or ManualClock())
        prices = PriceBook(self.bench.settings)
        totals = {"a": timedelta(seconds=30), "b": timedelta(seconds=60)}
        output_limits, fleet = OutputLimits(self.bench.settings, prices.context_tokens), self.bench.fleet
        self.planner = CallPlanner(
            self.bench.clock, fleet, prices, estimator, totals, offload=Offload(), output_limits=output_limits
        )
        self.budgets = BudgetStore(sessions)
        self.ledger = PostgresLedger(sessions, SystemClock(), self.bench.settings, prices)

    async def plan(self, request: CompletionRequest = QUESTION) -> PlannedCall[ModelCall]:
        return await self.planner.plan(request, ACME)

    async def begin(self, request: CompletionRequest = QUESTION) -> RunningCompletion:
        call = await self.plan(request)
        estimate = call.estimate(call.plan.targets[0])
        admitted = await self.ledger.admit(AdmissionRequest(call.key, call.operation, call.payer, estimate))
        assert isinstance(admitted, Admitted)
        return RunningCompletion(call, admitted, self.ledger, self.bench.clock)

    async def answer(self, running: RunningCompletion) -> Completion:
        call = running.call
        routed = await self.bench.fleet.router.route_completion(
            call.plan, call.template, running.admit_attempt, running.observe, tenant=call.payer.tenant
        )
        return running.finished(routed)


class MakeCalls:
    def __init__(self, sessions: Sessions, estimator: Estimator) -> None:
        self._sessions = sessions
        self._estimator = estimator
        self.made: list[Calls] = []

    def __call__(self, limits: tuple[int, int] | None = None, **scripts: list[Step]) -> Calls:
        self.made.append(Calls(self._sessions, self._estimator, limits, None, **scripts))
        return self.made[-1]


@pytest.fixture
async def make(database_url: str, estimator: Estimator) -> AsyncIterator[MakeCalls]:
    engines = build_engines(database_url, [], DatabaseSettings())
    make_calls = MakeCalls(Sessions(engines), estimator)
    yield make_calls
    for calls in make_calls.made:
        await calls.ledger.close()
    await engines.close()


@pytest.fixture
def calls(make: MakeCalls) -> Calls:
    return make()


class TestAPlan:
    async def test_has_the_routes_cap_where_the_call_has_none(self, calls: Calls) -> None:
        call = await calls.plan(replace(QUESTION, max_output_tokens=None))
        assert (call.max_output_tokens, call.min_output_tokens, call.template.max_output_tokens) == (100, 25, 100)

    async def test_has_the_calls_own_caps(self, calls: Calls) -> None:
        call = await calls.plan(replace(QUESTION, max_output_tokens=3, min_output_tokens=2))
        assert (call.max_output_tokens, call.min_output_tokens) == (3, 2)

    async def test_is_held_and_sent_for_no_more_than_its_model_writes(self, make: MakeCalls) -> None:
        calls = make(a=[fail(FailureKind.MODEL_NOT_FOUND)], b=[HELLO], limits=(64, 50))
        huge = replace(QUESTION, max_output_tokens=10_000_000)
        call = await calls.plan(huge)
        assert [call.estimate(target).max_output_tokens for target in (A, B)] == [64, 50]
        assert (call.template.max_output_tokens, call.min_output_tokens) == (64, 16)
        running = await calls.begin(huge)
        answered = await calls.answer(running)
        sent = calls.bench.providers["b"].calls[0]
        assert isinstance(sent, ModelCall)
        assert sent.max_output_tokens == 50
        assert answered.output_cap_tokens == 50
        assert answered.notes == ("The output cap was lowered from 10000000 to 50, the maximum for b/n.",)
        assert not answered.capped_by_budget

    async def test_that_asks_for_less_is_left_alone(self, make: MakeCalls) -> None:
        calls = make(limits=(100, 100))
        answered = await calls.answer(await calls.begin(QUESTION))
        assert (answered.output_cap_tokens, answered.notes) == (100, ())

    async def test_ends_with_the_first_targets_time_or_the_calls_own(self, calls: Calls) -> None:
        now = calls.bench.clock.monotonic()
        own = replace(QUESTION, timeout=timedelta(seconds=2))
        other = replace(QUESTION, routing=RoutingPreference(avoid=("a",)))
        ends = [(await calls.plan(request)).template.deadline - now for request in (QUESTION, own, other)]
        assert ends == [30, 2, 60]

    async def test_counts_everything_that_the_model_reads(self, calls: Calls) -> None:
        conversation = (
            Message(Role.SYSTEM, (Text("system"),)),
            Message(Role.ASSISTANT, tool_calls=(ToolCall("1", "weather", '{"city": "Rome"}'),), reasoning={"thought": "hm"}),
            Message(Role.TOOL, tool_result=ToolResult("1", "sunny")),
        )
        request = replace(QUESTION, messages=conversation, tools=(Tool("weather", {"type": "object"}),))
        read = list(prompt_texts(request))
        assert read[:4] == ["system", "weather", '{"city": "Rome"}', '{"thought":"hm"}']
        assert "sunny" in read
        assert "object" in read[-1]

    async def test_counts_an_image_at_its_most_expensive(self, calls: Calls) -> None:
        seen = replace(QUESTION, messages=(Message(Role.USER, (Text("What is new?"), ImageUrl("https://example.com/a.png"))),))
        without, with_image = [await calls.plan(request) for request in (QUESTION, seen)]
        assert with_image.input_tokens(A) - without.input_tokens(A) == IMAGE_TOKENS

    @pytest.mark.parametrize(("model", "more"), [("gpt-5.5", Decimal("2.5")), ("gpt-5-mini", Decimal("1.8"))])
    async def test_holds_the_price_of_the_tier_it_asks_for(self, calls: Calls, model: str, more: Decimal) -> None:
        call = replace(await calls.plan(), prices=PriceBook(Settings()))
        usual, fast, cheap = [
            replace(call, service_tier=tier).estimate(Target("openai", model))
            for tier in (ServiceTier.STANDARD, ServiceTier.PRIORITY, ServiceTier.FLEX)
        ]
        assert usual.output_token_usd is not None
        assert usual.input_usd is not None
        assert (fast.output_token_usd, fast.input_usd) == (usual.output_token_usd * more, usual.input_usd * more)
        assert (cheap.output_token_usd, cheap.input_usd) == (usual.output_token_usd, usual.input_usd)

    async def test_holds_the_price_of_a_cache_of_an_hour(self, calls: Calls) -> None:
        marked = replace(QUESTION.messages[0], cache_up_to=True, cache_ttl=CacheTtl.ONE_HOUR)
        plain, kept = [await calls.plan(request) for request in (QUESTION, replace(QUESTION, messages=(marked,)))]
        claude = Target("anthropic", "claude-sonnet-5-5")
        usual, hour = [replace(call, prices=PriceBook(Settings())).estimate(claude).input_usd for call in (plain, kept)]
        assert usual is not None
        assert hour is not None
        assert hour / usual == Decimal(2) / Decimal("1.25")

    async def test_counts_documents_by_their_pages_or_their_text(self, calls: Calls) -> None:
        asked = QUESTION.messages[0].parts
        costs = {}
        for part in (
            InlinePdf("x", 3),
            PdfUrl("https://example.com/a.pdf"),
            TextDocument("What is new?"),
            ImageUrl("https://a.example/a"),
        ):
            result = Message(Role.TOOL, tool_result=ToolResult("1", "", parts=(part,)))
            beside, inside = [
                (await calls.plan(replace(QUESTION, messages=messages))).input_tokens(A)
                for messages in ((Message(Role.USER, (*asked, part)),), (Message(Role.USER, asked), result))
            ]
            costs[type(part)] = beside - (await calls.plan()).input_tokens(A)
            assert inside >= beside
        text = costs.pop(TextDocument)
        assert costs == {InlinePdf: 3 * PAGE_TOKENS, PdfUrl: UNSEEN_PDF_PAGES * PAGE_TOKENS, ImageUrl: IMAGE_TOKENS}
        assert 0 < text < 20

    @pytest.mark.parametrize("inside", [False, True])
    async def test_is_refused_for_a_document_at_a_private_address(self, calls: Calls, *, inside: bool) -> None:
        part = PdfUrl("http://10.0.0.7/a.pdf")
        message = Message(Role.TOOL, tool_result=ToolResult("1", "", parts=(part,))) if inside else Message(Role.USER, (part,))
        with pytest.raises(Refused) as caught:
            await calls.plan(replace(QUESTION, messages=(message,)))
        assert isinstance(caught.value.reason, InvalidInput)
        between = ("toolResult",) if inside else ()
        assert caught.value.reason.path == ("messages", "0", *between, "parts", "0", "document", "url")

    async def test_is_refused_for_an_image_at_a_private_address_before_anything_is_held(self, calls: Calls) -> None:
        parts = (Text("What is new?"), ImageUrl("https://example.com/a.png"), ImageUrl("http://127.1/a.png"))
        with pytest.raises(Refused) as caught:
            await calls.plan(replace(QUESTION, messages=(Message(Role.USER, parts),)))
        assert isinstance(caught.value.reason, InvalidInput)
        assert caught.value.reason.path == ("messages", "0", "parts", "2", "image", "url")

    async def test_is_refused_for_another_agent_and_where_no_target_is_left(self, calls: Calls) -> None:
        with pytest.raises(Forbidden):
            await calls.planner.plan(replace(QUESTION, agent="sales"), principal(Scope.COMPLETIONS, agent="research"))
        with pytest.raises(Refused) as caught:
            await calls.plan(replace(QUESTION, routing=RoutingPreference(avoid=("a", "b"))))
        assert isinstance(caught.value.reason, InvalidInput)
        assert caught.value.reason.code is ProblemCode.NO_ROUTE

    async def test_of_embeddings_has_no_output(self, calls: Calls) -> None:
        call = await calls.planner.plan_embeddings(EmbeddingsRequest(texts=("A text.",), model="a/m"), ACME)
        assert (call.max_output_tokens, call.estimate(A).max_output_tokens) == (0, 0)


class TestAnIdempotencyKey:
    async def test_is_of_the_whole_input_and_of_who_pays(self, calls: Calls) -> None:
        same = [replace(QUESTION, idempotency_key="k") for _ in range(2)]
        others = [replace(same[0], agent="research"), replace(same[0], max_output_tokens=99), replace(same[0], seed=1)]
        keys = [(await calls.plan(request)).idempotency for request in (*same, *others)]
        assert all(key is not None and key.key == "k" for key in keys)
        assert len({key.request_hash for key in keys if key is not None}) == 4
        assert keys[0] == keys[1]

    async def test_is_none_where_the_call_brings_none(self, calls: Calls) -> None:
        assert (await calls.plan()).idempotency is None


class TestTheCheapestTarget:
    LONG = replace(asked("word " * 4000, model=None, cap=10), routing=RoutingPreference(strategy=RoutingStrategy.LEAST_COST))

    async def test_is_the_one_that_has_the_prompt_in_its_cache(self, make: MakeCalls) -> None:
        """At the expensive one most of it then costs a tenth of its price; some minutes later it has to be read anew."""
        kept = TokenUsage(uncached_input_tokens=10, cached_input_tokens=3990, visible_output_tokens=2)
        calls = make(a=[fail(FailureKind.MODEL_NOT_FOUND)], b=[Reply(text_answer("short answer", usage=kept))])
        other = replace(self.LONG, messages=(Message(Role.USER, (Text("another " * 4000),)),))
        answered = await calls.answer(await calls.begin(self.LONG))
        firsts = [(await calls.plan(request)).plan.targets[0] for request in (self.LONG, other)]
        calls.bench.clock.move(301)
        assert (answered.provider, firsts, (await calls.plan(self.LONG)).plan.targets[0]) == ("b", [B, A], A)

    async def test_is_explained_with_what_it_would_cost(self, calls: Calls) -> None:
        first, second = await calls.planner.explain(self.LONG, ACME)
        assert first.target == "a/m"
        assert first.estimated_cost_usd is not None
        assert second.estimated_cost_usd is not None
        assert 0 < first.estimated_cost_usd < second.estimated_cost_usd


class TestAnAttempt:
    async def test_is_charged_for_the_more_expensive_tier_if_none_is_known(self, calls: Calls) -> None:
        call = replace(await calls.plan(), prices=PriceBook(Settings()), service_tier=ServiceTier.PRIORITY)
        usage = TokenUsage(uncached_input_tokens=1000, visible_output_tokens=100, confirmed=False)
        attempt = Attempt(
            new_uuid(call.started_at), "openai", "gpt-5.5", AttemptOutcome.FAILED, call.started_at, 1.0, usage=usage
        )
        charged, known = call.priced(attempt), call.priced(replace(attempt, usage=replace(usage, confirmed=True)))
        assert charged.usage is not None
        assert charged.usage.service_tier is ServiceTier.PRIORITY
        assert charged.cost_usd is not None
        assert known.cost_usd is not None
        assert charged.cost_usd == known.cost_usd * Decimal("2.5")

    async def test_costs_what_the_tier_costs_that_served_it(self, calls: Calls) -> None:
        call = replace(await calls.plan(), prices=PriceBook(Settings()))
        usage = TokenUsage(uncached_input_tokens=1000, visible_output_tokens=100)
        made = Attempt(new_uuid(call.started_at), "openai", "gpt-5", AttemptOutcome.SUCCEEDED, call.started_at, 1.0, usage=usage)
        flex = call.priced(replace(made, usage=replace(usage, service_tier=ServiceTier.FLEX))).cost_usd
        assert (call.priced(made).cost_usd, flex) == (Decimal("0.00225"), Decimal("0.001125"))


class TestARunningCall:
    async def test_is_held_for_again_before_every_further_attempt(self, make: MakeCalls) -> None:
        calls = make(a=[fail(FailureKind.MODEL_NOT_FOUND)])
        everything = await calls.budgets.create(NewBudget("all", BudgetScope(tenant="acme"), Decimal(1)))
        running = await calls.begin()
        expensive = running.call.estimate(B)
        assert expensive.input_usd is not None
        assert expensive.output_token_usd is not None
        await calls.answer(running)
        held = (await calls.budgets.by_keys([everything.key], None, primary=True))[everything.key].held_usd
        assert held >= expensive.input_usd + expensive.output_token_usd * 100

    async def test_passes_over_a_target_that_the_budget_cannot_pay(self, make: MakeCalls) -> None:
        calls = make(a=[fail(FailureKind.MODEL_NOT_FOUND)])
        await calls.budgets.create(NewBudget("all", BudgetScope(tenant="acme"), Decimal("0.0004")))
        running = await calls.begin()
        with pytest.raises(Refused) as caught:
            await calls.answer(running)
        assert [attempt.outcome for attempt in running.attempts] == [AttemptOutcome.FAILED, AttemptOutcome.SKIPPED_BUDGET]
        assert [attempt.provider for attempt in running.billed_attempts] == ["a"]
        failed = running.failed(caught.value.reason)
        assert (failed.status, failed.usage, failed.cost_usd) == (CompletionStatus.FAILED, None, ZERO)

    async def test_costs_all_its_attempts_together(self, make: MakeCalls) -> None:
        spent = TokenUsage(uncached_input_tokens=1000, visible_output_tokens=10)
        calls = make(a=[Fail(ProviderError(FailureKind.TRUNCATED, usage=spent))])
        running = await calls.begin()
        answering = asyncio.create_task(calls.answer(running))
        await calls.bench.clock.advance(10)
        completion = await answering
        assert (completion.provider, completion.model, completion.text) == ("b", "n", "hello there")
        prices = [attempt.cost_usd for attempt in completion.attempts]
        assert prices == [Decimal("0.00102"), Decimal("0.00006")]
        assert completion.cost_usd == Decimal("0.00108")
        assert completion.usage == spent + TokenUsage(uncached_input_tokens=10, visible_output_tokens=2)

    async def test_has_no_cost_where_one_attempt_has_no_price(self, calls: Calls) -> None:
        running = await calls.begin()
        await calls.answer(running)
        running.attempts.append(replace(running.attempts[0], cost_usd=None))
        assert running.cost_usd is None

    async def test_that_broke_off_keeps_what_came_and_is_charged_for_it(self, make: MakeCalls) -> None:
        """The provider's figures never came: the input as it was held for, and the output that was shown."""
        calls = make(a=[Fail(ProviderError(FailureKind.TRUNCATED), first=(TextDelta("Half of"), TextDelta(" it")))])
        running = await calls.begin()
        with pytest.raises(Refused) as caught:
            await self.stream(calls, running)
        failed = running.failed(caught.value.reason)
        assert (failed.status, failed.text, failed.provider) == (CompletionStatus.FAILED, "Half of it", None)
        assert isinstance(failed.problem, ProvidersFailed)
        assert failed.problem.attempts == failed.attempts
        assert failed.usage == TokenUsage(running.call.input_tokens(A), visible_output_tokens=3, confirmed=False)

    async def test_whose_caller_left_before_the_first_token_is_charged_its_input(self, make: MakeCalls) -> None:
        calls = make(a=[Reply(text_answer("late"), delay=100)])
        running = await calls.begin()
        answering = asyncio.create_task(self.stream(calls, running))
        await settle()
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        cancelled = running.cancelled()
        assert (cancelled.status, cancelled.finish_reason) == (CompletionStatus.CANCELLED, FinishReason.CANCELLED)
        assert cancelled.usage == TokenUsage(running.call.input_tokens(A), confirmed=False)

    async def test_is_not_charged_for_a_refusal(self, make: MakeCalls) -> None:
        calls = make(a=[fail(FailureKind.BAD_REQUEST)])
        running = await calls.begin()
        with pytest.raises(Refused):
            await calls.answer(running)
        assert (running.usage, running.cost_usd, len(running.billed_attempts)) == (None, ZERO, 1)

    async def test_reports_of_a_limit_in_its_way_after_something_was_sent(self, make: MakeCalls) -> None:
        calls = make(a=[fail(FailureKind.BAD_REQUEST)])
        running = await calls.begin()
        with pytest.raises(Refused):
            await calls.answer(running)
        problem = running.failed(NO_ROOM).problem
        assert isinstance(problem, ProvidersFailed)
        assert (problem.code, problem.retryable) == (ProblemCode.RATE_LIMITED, True)

    @pytest.mark.parametrize("problem", [NO_ROOM, CANNOT_SAY])
    async def test_reports_what_was_in_its_way_before_anything_was_sent(self, calls: Calls, problem: object) -> None:
        assert (await calls.begin()).failed(problem).problem == problem

    async def stream(self, calls: Calls, running: RunningCompletion) -> None:
        """As streams are run."""
        plan, template = running.call.plan, running.call.template
        async for part in calls.bench.fleet.router.route_stream(
            plan, template, running.admit_attempt, running.observe, tenant="acme"
        ):
            if isinstance(part, TextDelta):
                running.streamed(part)
