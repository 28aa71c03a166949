from __future__ import annotations

import asyncio

import pytest

from app.errors import FailureKind, Refused
from app.llm.routing import ProvidersFailed, RoutingPreference, Target
from app.problems import InvalidInput, ProblemCode
from tests.app.llm.fleets import HELLO, Bench, fail, problem

pytestmark = pytest.mark.anyio


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
