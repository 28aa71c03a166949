from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from decimal import Decimal

import pytest

from app.domain.errors import FailureKind, ProviderError, Refused, RefusedByTarget
from app.domain.problems import InvalidInput, ProblemCode
from app.domain.usage import Operation, TokenUsage
from app.llm.fleet import BreakerChanged, build_fleet
from app.llm.messages import EmbedCall, Embedded, ModelCall, TextDelta
from app.llm.metrics import AttemptFinished
from app.llm.providers.scripted import Fail, Reply, Vectors, text_answer
from app.llm.resilience.breaker import BreakerStatus
from app.llm.router import Rerouted, Routed
from app.llm.routing import CallNeeds, ProvidersFailed, RateLimited, RoutingPreference, RoutingStrategy, Target
from app.settings import ModelSettings, ProviderKindName, ProviderLimits, StrategyName
from tests.app.llm.fleets import HELLO, Bench, fail, no_price, problem
from tests.clocks import settle

pytestmark = pytest.mark.anyio

NOT_HERE = Fail(RefusedByTarget(InvalidInput("a takes no addresses.", ("messages",))))
CANNOT_SAY = Fail(Refused(InvalidInput("m does not take seed.", ("seed",))))


async def refusal_of(bench: Bench, seconds: float = 120.0, within: float = 600.0) -> ProvidersFailed:
    task = asyncio.create_task(bench.complete(within=within))
    await bench.clock.advance(seconds)
    with pytest.raises(Refused) as caught:
        await task
    return problem(caught.value, ProvidersFailed)


class TestFailover:
    async def test_the_first_target_answers(self) -> None:
        bench = Bench({"a": [HELLO], "b": [HELLO]})
        routed = await bench.complete()
        assert routed.target == Target("a", "m")
        assert routed.answer.text == "hello there"
        assert bench.outcomes == ["a SUCCEEDED"]

    async def test_a_broken_target_is_asked_once_more_then_left_for_the_next(self) -> None:
        bench = Bench({"a": [fail(FailureKind.SERVER_ERROR)], "b": [HELLO]})
        task = asyncio.create_task(bench.complete())
        await bench.clock.advance(2)
        assert (await task).target == Target("b", "m")
        assert bench.outcomes == ["a FAILED", "a FAILED", "b SUCCEEDED"]

    async def test_a_silent_target_is_tried_once(self) -> None:
        bench = Bench({"a": [fail(FailureKind.FIRST_TOKEN_TIMEOUT)], "b": [HELLO]})
        assert (await bench.complete()).target == Target("b", "m")
        assert bench.outcomes == ["a TIMED_OUT", "b SUCCEEDED"]

    async def test_a_content_filter_is_not_routed_around(self) -> None:
        bench = Bench({"a": [fail(FailureKind.CONTENT_FILTERED)], "b": [HELLO]})
        refused = await refusal_of(bench)
        assert (refused.code, refused.retryable) == (ProblemCode.CONTENT_FILTERED, False)
        assert bench.providers["b"].calls == []

    async def test_a_context_that_is_too_long_goes_only_to_a_larger_window(self) -> None:
        windows = {
            "a": ModelSettings(name="a-1", context_tokens=8_000),
            "b": ModelSettings(name="b-1", context_tokens=8_000),
            "c": ModelSettings(name="c-1", context_tokens=200_000),
        }
        bench = Bench({"a": [fail(FailureKind.CONTEXT_TOO_LONG)], "b": [HELLO], "c": [HELLO]}, models=windows)
        assert (await bench.complete()).target == Target("c", "c-1")
        assert bench.providers["b"].calls == []

    async def test_a_context_too_long_for_all_is_said_to_be_that(self) -> None:
        bench = Bench({"a": [fail(FailureKind.CONTEXT_TOO_LONG)], "b": [fail(FailureKind.CONTEXT_TOO_LONG)]})
        refused = await refusal_of(bench)
        assert (refused.code, refused.retryable) == (ProblemCode.CONTEXT_TOO_LONG, False)
        assert bench.outcomes == ["a FAILED", "b FAILED"]

    @pytest.mark.parametrize("known", ["a", "b", ""])
    async def test_a_context_that_is_too_long_goes_on_to_a_window_that_no_one_knows(self, known: str) -> None:
        windows = {known: ModelSettings(name="m", context_tokens=8_000)} if known else {}
        bench = Bench({"a": [fail(FailureKind.CONTEXT_TOO_LONG)], "b": [HELLO]}, models=windows)
        assert (await bench.complete()).target == Target("b", "m")

    @pytest.mark.parametrize("kind", [FailureKind.UNSUPPORTED, FailureKind.NOT_IMPLEMENTED, FailureKind.MODEL_NOT_FOUND])
    async def test_what_one_target_alone_cannot_do_goes_on_to_the_next_at_once(self, kind: FailureKind) -> None:
        bench = Bench({"a": [fail(kind)], "b": [fail(kind)], "c": [HELLO]})
        assert (await bench.complete()).target == Target("c", "m")
        assert bench.outcomes == ["a FAILED", "b FAILED", "c SUCCEEDED"]

    async def test_a_refusal_without_a_known_reason_is_tried_once_elsewhere(self) -> None:
        unknown = fail(FailureKind.UNKNOWN_REFUSAL)
        bench = Bench({"a": [unknown], "b": [HELLO]})
        assert (await bench.complete()).target == Target("b", "m")
        refused = await refusal_of(bench := Bench({"a": [unknown], "b": [unknown], "c": [HELLO]}))
        assert (refused.code, refused.retryable) == (ProblemCode.PROVIDER_ERROR, False)
        assert bench.outcomes == ["a FAILED", "b FAILED"]

    @pytest.mark.parametrize(
        ("kind", "code", "retryable"),
        [
            (FailureKind.SERVER_ERROR, ProblemCode.PROVIDER_ERROR, True),
            (FailureKind.RATE_LIMITED, ProblemCode.RATE_LIMITED, True),
            (FailureKind.FIRST_TOKEN_TIMEOUT, ProblemCode.TIMEOUT, True),
            (FailureKind.BAD_REQUEST, ProblemCode.PROVIDER_ERROR, False),
            (FailureKind.SCHEMA_MISMATCH, ProblemCode.SCHEMA_MISMATCH, False),
            (FailureKind.KEY_REFUSED, ProblemCode.PROVIDER_ERROR, False),
        ],
    )
    async def test_what_every_target_had_in_common_is_the_code(
        self, kind: FailureKind, code: ProblemCode, *, retryable: bool
    ) -> None:
        refused = await refusal_of(Bench({"a": [fail(kind)], "b": [fail(kind)]}))
        assert (refused.code, refused.retryable) == (code, retryable)

    async def test_every_target_is_tried_at_most_twice_and_the_last_one_in_full(self) -> None:
        bench = Bench({name: [fail(FailureKind.SERVER_ERROR)] for name in "abcde"})
        await refusal_of(bench)
        assert [len(bench.providers[name].calls) for name in "abcde"] == [2, 2, 2, 1, 5]

    async def test_a_call_makes_no_more_than_four_tries_in_three_seconds(self) -> None:
        alone = Bench({"a": [fail(FailureKind.OVERLOADED)]})
        refused = await refusal_of(alone)
        times = [attempt.started_at for attempt in refused.attempts]
        assert len(times) == 5
        assert sum(time - times[0] <= timedelta(seconds=3) for time in times) <= 4

    async def test_a_wait_that_the_provider_asks_for_is_kept_inside_the_deadline(self) -> None:
        bench = Bench({"a": [fail(FailureKind.RATE_LIMITED, retry_after=20), HELLO]})
        start = bench.clock.monotonic()
        task = asyncio.create_task(bench.complete())
        await bench.clock.advance(30)
        assert (await task).answer.text == "hello there"
        assert bench.attempts[1].started_at - bench.attempts[0].started_at == timedelta(seconds=20)
        hurried = Bench({"a": [fail(FailureKind.RATE_LIMITED, retry_after=20), HELLO]})
        refused = await refusal_of(hurried, within=10)
        assert refused.code is ProblemCode.RATE_LIMITED
        assert bench.clock.monotonic() - start == 30

    async def test_what_the_first_target_does_not_take_is_refused_and_goes_to_no_other(self) -> None:
        bench = Bench({"a": [CANNOT_SAY], "b": [HELLO]})
        with pytest.raises(Refused) as caught:
            await bench.complete()
        assert problem(caught.value, InvalidInput).path == ("seed",)
        assert (bench.providers["b"].calls, bench.attempts) == ([], [])

    async def test_what_one_target_cannot_take_goes_to_the_next(self) -> None:
        bench = Bench({"a": [NOT_HERE], "b": [HELLO]})
        assert (await bench.complete()).target == Target("b", "m")
        assert bench.outcomes == ["b SUCCEEDED"]

    async def test_what_no_target_can_take_is_refused_with_its_path(self) -> None:
        bench = Bench({"a": [NOT_HERE], "b": [NOT_HERE]})
        with pytest.raises(Refused) as caught:
            await bench.complete()
        assert problem(caught.value, InvalidInput).path == ("messages",)
        assert bench.attempts == []

    async def test_a_fallback_that_does_not_take_it_is_passed_over(self) -> None:
        bench = Bench({"a": [fail(FailureKind.FIRST_TOKEN_TIMEOUT)], "b": [CANNOT_SAY], "c": [HELLO]})
        assert (await bench.complete()).target == Target("c", "m")
        assert bench.outcomes == ["a TIMED_OUT", "c SUCCEEDED"]
        alone = Bench({"a": [fail(FailureKind.FIRST_TOKEN_TIMEOUT)], "b": [CANNOT_SAY]})
        assert (await refusal_of(alone)).code is ProblemCode.TIMEOUT

    async def test_the_deadline_covers_all_targets_together(self) -> None:
        slow = fail(FailureKind.FIRST_TOKEN_TIMEOUT, delay=6)
        bench = Bench({"a": [slow], "b": [slow], "c": [HELLO]})
        refused = await refusal_of(bench, within=10)
        assert refused.code is ProblemCode.TIMEOUT
        assert bench.providers["c"].calls == []

    async def test_without_fallback_only_the_first_is_tried(self) -> None:
        bench = Bench({"a": [fail(FailureKind.MODEL_NOT_FOUND)], "b": [HELLO]})
        with pytest.raises(Refused):
            await bench.complete(preference=RoutingPreference(fallback=False))
        assert bench.providers["b"].calls == []

    async def test_a_cancelled_call_says_so_and_stops(self) -> None:
        bench = Bench({"a": [Reply(text_answer("late"), delay=10)], "b": [HELLO]})
        task = asyncio.create_task(bench.complete())
        await bench.clock.advance(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert bench.outcomes == ["a CANCELLED"]


class TestTemplate:
    async def test_model_and_cap_are_set_for_every_try(self) -> None:
        models = {"b": ModelSettings(name="b-1", max_output_tokens=50)}
        bench = Bench({"a": [fail(FailureKind.KEY_REFUSED)], "b": [HELLO]}, models=models, cap=70)
        await bench.complete()
        [first], [second] = bench.providers["a"].calls, bench.providers["b"].calls
        assert isinstance(first, ModelCall)
        assert isinstance(second, ModelCall)
        assert [(call.model, call.max_output_tokens) for call in (first, second)] == [("m", 70), ("b-1", 50)]


class TestBudget:
    async def test_a_target_that_cannot_be_paid_for_is_skipped(self) -> None:
        bench = Bench({"a": [HELLO]}, cap=None)
        refused = await refusal_of(bench)
        assert bench.outcomes == ["a SKIPPED_BUDGET"]
        assert refused.code is ProblemCode.BUDGET_EXCEEDED
        assert bench.providers["a"].calls == []


class TestCircuit:
    async def test_a_primary_that_is_down_is_left_within_five_failed_calls_and_used_again(self) -> None:
        bench = Bench({"a": [*[fail(FailureKind.SERVER_ERROR)] * 9, HELLO], "b": [HELLO]})
        answered = []
        for _ in range(10):
            task = asyncio.create_task(bench.complete())
            await bench.clock.advance(3)
            answered.append((await task).target.provider)
        assert answered == ["b"] * 10
        assert len(bench.providers["a"].calls) == 9
        assert "a SKIPPED_OPEN_CIRCUIT" in bench.outcomes
        await bench.clock.advance(60)
        assert (await bench.complete()).target.provider == "a"
        changes = [event.breaker.status.value for event in bench.events if isinstance(event, BreakerChanged)]
        assert changes == ["OPEN", "HALF_OPEN", "CLOSED"]

    async def test_one_prompt_that_a_target_cannot_take_does_not_close_it_to_others(self) -> None:
        bench = Bench({"a": [fail(FailureKind.SERVER_ERROR)]}, prompt="an image")
        for _ in range(4):
            assert len((await refusal_of(bench)).attempts) == 5
        guarded = bench.fleet.find(Target("a", "m"))
        assert guarded is not None
        assert guarded.breaker.state.status is BreakerStatus.CLOSED

    async def test_a_call_that_a_retry_repairs_is_no_failure(self) -> None:
        bench = Bench({"a": [fail(FailureKind.SERVER_ERROR), HELLO]})
        task = asyncio.create_task(bench.complete())
        await bench.clock.advance(2)
        await task
        guarded = bench.fleet.find(Target("a", "m"))
        assert guarded is not None
        assert guarded.breaker.state.consecutive_failures == 0

    async def test_all_circuits_open_is_said_at_once(self) -> None:
        bench = Bench({"a": [fail(FailureKind.CONNECT_TIMEOUT)]})
        for _ in range(5):
            await refusal_of(bench, seconds=0)
        refused = await refusal_of(bench, seconds=0)
        assert (refused.code, refused.retryable) == (ProblemCode.CIRCUIT_OPEN, True)
        assert len(bench.providers["a"].calls) == 5

    @pytest.mark.parametrize("kind", [FailureKind.RATE_LIMITED, FailureKind.KEY_REFUSED, FailureKind.POOL_EXHAUSTED])
    async def test_limits_keys_and_our_own_pool_do_not_open_it(self, kind: FailureKind) -> None:
        bench = Bench({"a": [fail(kind)]})
        for _ in range(10):
            await refusal_of(bench)
        [status] = bench.fleet.providers()
        assert status.breakers[0].breaker.status is BreakerStatus.CLOSED


class TestLimit:
    async def test_a_target_without_room_is_passed_over_while_another_has_some(self) -> None:
        bench = Bench({"a": [HELLO], "b": [HELLO]}, limits=ProviderLimits(requests_per_minute=1))
        assert [(await bench.complete()).target.provider for _ in range(2)] == ["a", "b"]
        assert bench.outcomes == ["a SUCCEEDED", "a SKIPPED_LIMIT", "b SUCCEEDED"]

    async def test_where_none_has_room_the_call_waits_and_then_is_rate_limited(self) -> None:
        limits = ProviderLimits(requests_per_minute=1, queue_timeout=timedelta(seconds=10))
        bench = Bench({"a": [HELLO], "b": [HELLO]}, limits=limits)
        for _ in range(2):
            await bench.complete()
        task = asyncio.create_task(bench.complete())
        await bench.clock.advance(21)
        with pytest.raises(Refused) as caught:
            await task
        assert problem(caught.value, RateLimited).retry_after_ms > 1_000

    async def test_the_wait_ends_when_there_is_room(self) -> None:
        bench = Bench({"a": [HELLO]}, limits=ProviderLimits(requests_per_minute=6))
        for _ in range(6):
            await bench.complete()
        task = asyncio.create_task(bench.complete())
        await bench.clock.advance(10.1)
        assert (await task).answer.text == "hello there"


class TestStream:
    async def test_deltas_then_the_target_that_answered(self) -> None:
        bench = Bench({"a": [HELLO]})
        await bench.stream()
        assert [part.text for part in bench.parts if isinstance(part, TextDelta)] == ["hello", " there"]
        assert isinstance(bench.parts[-1], Routed)
        assert bench.outcomes == ["a SUCCEEDED"]

    async def test_a_failure_before_the_first_token_moves_on_unseen(self) -> None:
        bench = Bench({"a": [fail(FailureKind.FIRST_TOKEN_TIMEOUT)], "b": [HELLO]})
        await bench.stream()
        assert isinstance(bench.parts[0], Rerouted)
        assert bench.parts[0].attempt.provider == "a"
        assert isinstance(bench.parts[-1], Routed)
        assert bench.parts[-1].target == Target("b", "m")

    async def test_a_failure_after_it_is_final_and_never_a_finished_answer(self) -> None:
        cut = Fail(ProviderError(FailureKind.TRUNCATED), first=(TextDelta("half"),))
        bench = Bench({"a": [cut], "b": [HELLO]})
        with pytest.raises(Refused) as caught:
            await bench.stream()
        assert problem(caught.value, ProvidersFailed).attempts[0].outcome.value == "FAILED"
        assert bench.parts == [TextDelta("half")]
        assert bench.providers["b"].calls == []
        assert bench.providers["a"].open_streams == 0

    async def test_a_target_that_cannot_be_given_the_call_reports_of_no_failure_twice(self) -> None:
        bench = Bench({"a": [fail(FailureKind.FIRST_TOKEN_TIMEOUT)], "b": [CANNOT_SAY], "c": [HELLO]})
        await bench.stream()
        assert [part.attempt.provider for part in bench.parts if isinstance(part, Rerouted)] == ["a"]
        assert isinstance(bench.parts[-1], Routed)

    async def test_anyone_who_leaves_closes_the_providers_stream(self) -> None:
        bench = Bench({"a": [Reply(text_answer("one two three"))]})
        plan = bench.plan()
        parts = bench.fleet.router.route_stream(plan, bench.call(), bench.admit, bench.attempts.append, tenant="acme")
        assert await anext(parts) == TextDelta("one")
        await parts.aclose()
        assert bench.providers["a"].open_streams == 0
        assert bench.outcomes == ["a CANCELLED"]

    async def test_the_first_token_is_timed(self) -> None:
        bench = Bench({"a": [Reply(text_answer("one two"), delay=2)]})
        task = asyncio.create_task(bench.stream())
        await bench.clock.advance(3)
        await task
        [finished] = [event for event in bench.events if isinstance(event, AttemptFinished)]
        assert finished.first_token_ms == pytest.approx(2_000)


class TestEmbeddings:
    async def test_they_are_routed_over_providers_that_have_them(self) -> None:
        vectors = Embedded(((0.5,),), TokenUsage(uncached_input_tokens=3), "m")
        bench = Bench({"a": [fail(FailureKind.MODEL_NOT_FOUND)], "b": [Vectors(vectors)]})
        needs = CallNeeds(3, operation=Operation.EMBEDDING)
        call = EmbedCall("", ("hello",), bench.clock.monotonic() + 60)
        routed = await bench.fleet.router.route_embedding(
            bench.plan(needs=needs), call, bench.admit, bench.attempts.append, tenant="acme"
        )
        assert (routed.embedded, routed.target) == (vectors, Target("b", "m"))
        assert bench.outcomes == ["a FAILED", "b SUCCEEDED"]

    async def test_a_provider_without_them_is_no_route(self) -> None:
        bench = Bench({"a": [HELLO]}, changes={"kind": ProviderKindName.ANTHROPIC})
        with pytest.raises(Refused) as caught:
            bench.plan("a/m", needs=CallNeeds(operation=Operation.EMBEDDING))
        assert problem(caught.value, InvalidInput).code is ProblemCode.NO_ROUTE


class TestStrategies:
    def order(self, strategy: StrategyName, prices: dict[str, str], times: int = 1) -> list[str]:
        bench = Bench({name: [HELLO] for name in "abc"}, strategy=strategy)

        def estimate(target: Target) -> Decimal | None:
            return Decimal(prices[target.provider]) if target.provider in prices else None

        plans = [bench.fleet.router.plan(None, RoutingPreference(), CallNeeds(), estimate) for _ in range(times)]
        return ["".join(target.provider for target in plan.targets) for plan in plans]

    def test_priority_is_the_routes_order(self) -> None:
        assert self.order(StrategyName.PRIORITY, {"c": "0"}) == ["abc"]

    def test_least_cost_puts_the_unknown_last(self) -> None:
        assert self.order(StrategyName.LEAST_COST, {"b": "0.2", "c": "0.1"}) == ["cba"]

    def test_round_robin_takes_turns(self) -> None:
        assert self.order(StrategyName.ROUND_ROBIN, {}, 4) == ["abc", "bca", "cab", "abc"]

    def test_random_spreads_evenly(self) -> None:
        firsts = Counter(order[0] for order in self.order(StrategyName.RANDOM, {}, 3_000))
        assert min(firsts.values()) > 850

    async def test_least_latency_prefers_the_fast_and_now_and_then_another(self) -> None:
        bench = Bench({"a": [Reply(text_answer("x"), delay=3)], "b": [Reply(text_answer("x"), delay=1)]})
        for name in ("a/m", "b/m"):
            task = asyncio.create_task(bench.complete(name))
            await bench.clock.advance(4)
            await task
        preference = RoutingPreference(strategy=RoutingStrategy.LEAST_LATENCY)
        firsts = Counter(bench.plan(preference=preference).targets[0].provider for _ in range(1_000))
        assert firsts["b"] > 900
        assert firsts["a"] > 5
        assert bench.fleet.router.explain(None, preference, CallNeeds(), no_price)[0].target == "b/m"

    async def test_what_it_knew_long_ago_is_forgotten_and_tried_again(self) -> None:
        bench = Bench({"a": [Reply(text_answer("x"), delay=3)], "b": [Reply(text_answer("x"), delay=1)]})
        task = asyncio.create_task(bench.complete("a/m"))
        await bench.clock.advance(400)
        await task
        task = asyncio.create_task(bench.complete("b/m"))
        await bench.clock.advance(4)
        await task
        preference = RoutingPreference(strategy=RoutingStrategy.LEAST_LATENCY)
        firsts = Counter(bench.plan(preference=preference).targets[0].provider for _ in range(100))
        assert firsts["a"] > 90


class TestPrivateImages:
    NEEDS = CallNeeds(10, private_url=("messages", "0", "parts", "0", "image", "url"))

    def test_go_only_to_providers_that_may_have_them(self) -> None:
        bench = Bench({"a": [HELLO], "b": [HELLO]})
        allowing = bench.settings.providers[1].model_copy(update={"allow_private_image_urls": True})
        settings = bench.settings.model_copy(update={"providers": (bench.settings.providers[0], allowing)})
        fleet = build_fleet(settings, bench.providers, bench.clock)
        plan = fleet.router.plan(None, RoutingPreference(), self.NEEDS, no_price)
        assert [target.provider for target in plan.targets] == ["b"]
        reported = {each.target: each.reason for each in fleet.router.explain(None, RoutingPreference(), self.NEEDS, no_price)}
        assert reported["a/m"] == "the provider is not given images at private addresses"

    def test_are_refused_with_their_path_where_no_provider_may_have_them(self) -> None:
        with pytest.raises(Refused) as caught:
            Bench({"a": [HELLO], "b": [HELLO]}).plan(needs=self.NEEDS)
        refusal = problem(caught.value, InvalidInput)
        assert (refusal.code, refusal.path) == (ProblemCode.INVALID_INPUT, self.NEEDS.private_url)

    def test_are_no_reason_where_no_target_is_left_anyway(self) -> None:
        with pytest.raises(Refused) as caught:
            Bench({"a": [HELLO]}).plan(preference=RoutingPreference(avoid=("a",)), needs=self.NEEDS)
        assert problem(caught.value, InvalidInput).code is ProblemCode.NO_ROUTE


class TestExplain:
    async def test_it_reports_order_reason_cost_and_latency_and_sends_nothing(self) -> None:
        bench = Bench({name: [HELLO] for name in "abcd"})
        await bench.complete()
        preference = RoutingPreference(avoid=("c",))
        found = bench.fleet.router.explain(None, preference, CallNeeds(), lambda target: Decimal(ord(target.provider)))
        assert [(each.target, each.eligible) for each in found] == [("a/m", True), ("b/m", True), ("d/m", True), ("c/m", False)]
        assert found[0].reason == "number 1 by PRIORITY"
        assert found[-1].reason == "in `avoid`"
        assert found[0].latency_p50_ms == 0
        assert found[0].estimated_cost_usd == 97
        assert bench.providers["b"].calls == []

    async def test_an_open_circuit_and_a_full_limiter_are_reasons(self) -> None:
        bench = Bench({"a": [fail(FailureKind.CONNECT_TIMEOUT)], "b": [HELLO]}, limits=ProviderLimits(requests_per_minute=5))
        for _ in range(5):
            await bench.complete()
        found = bench.fleet.router.explain(None, RoutingPreference(), CallNeeds(), no_price)
        assert [each.eligible for each in found] == [False, False]
        assert found[0].reason == "circuit open for 60 s more"
        assert found[1].reason.startswith("rate limit")


class TestNamingATarget:
    @pytest.mark.parametrize("name", ["nothing", "nobody/m", "a/other", "/", "a/", ""])
    async def test_what_is_not_configured_is_no_route(self, name: str) -> None:
        with pytest.raises(Refused) as caught:
            Bench({"a": [HELLO]}).plan(name)
        refused = problem(caught.value, InvalidInput)
        assert (refused.code, refused.path) == (ProblemCode.NO_ROUTE, ("model",))

    async def test_a_target_can_be_named_directly(self) -> None:
        bench = Bench({"a": [HELLO], "b": [HELLO]})
        assert (await bench.complete("b/m")).target == Target("b", "m")

    async def test_a_provider_that_lists_no_models_takes_any(self) -> None:
        bench = Bench({"a": [HELLO]}, unlisted=True)
        assert bench.plan("a/new/thing").targets == (Target("a", "new/thing"),)

    async def test_only_and_avoid_narrow_the_route(self) -> None:
        bench = Bench({"a": [HELLO], "b": [HELLO], "c": [HELLO]})
        assert bench.plan(preference=RoutingPreference(only=("b", "c/m"), avoid=("b",))).targets == (Target("c", "m"),)
        with pytest.raises(Refused) as caught:
            bench.plan(preference=RoutingPreference(avoid=("x",)))
        assert problem(caught.value, InvalidInput).path == ("routing", "avoid")


class TestHugeOutputCaps:
    async def test_of_one_tenant_leave_tokens_to_others(self) -> None:
        """With the usual limits of the provider, of which such a cap is more than a minute's."""
        model = ModelSettings(name="m", max_output_tokens=128_000)
        slow = [Reply(text_answer("x"), delay=3_600.0)] * 8
        bench = Bench({"a": [*slow, HELLO]}, models={"a": model}, changes={"kind": ProviderKindName.ANTHROPIC}, cap=128_000)
        greedy = [asyncio.create_task(bench.complete(tenant="acme", within=7_200.0)) for _ in range(12)]
        await settle()
        assert len(bench.providers["a"].calls) >= 6
        bench.cap = 100
        other = asyncio.create_task(bench.complete(tenant="globex"))
        await settle()
        await bench.clock.advance(8)
        assert (await other).answer.text == "hello there"
        for task in greedy:
            task.cancel()
        await asyncio.gather(*greedy, return_exceptions=True)
