"""Streams that break after something of them was shown, for calls that want another answer then."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.attempts import AttemptOutcome
from app.domain.errors import FailureKind, ProviderError, Refused
from app.domain.problems import InvalidInput, ProblemCode
from app.domain.usage import TokenUsage
from app.llm.messages import ReasoningDelta, StreamPart, TextDelta, ToolCallDelta
from app.llm.providers.scripted import Fail, Reply, Step, text_answer
from app.llm.router import Rerouted, Routed
from app.llm.routing import ProvidersFailed, Restarted, RestartReason, Target
from tests.app.llm.fleets import HELLO, Bench, fail, problem

pytestmark = pytest.mark.anyio

HALF: tuple[StreamPart, ...] = (TextDelta("half"),)
BILLED = TokenUsage(uncached_input_tokens=10, visible_output_tokens=1, confirmed=False)


def broken(kind: FailureKind = FailureKind.TRUNCATED, *, first: tuple[StreamPart, ...] = HALF, delay: float = 0.0) -> Fail:
    return Fail(ProviderError(kind, usage=BILLED), first=first, delay=delay)


async def streamed(bench: Bench, *, seconds: float = 30.0) -> list[str]:
    """The parts, in short. Raises as the router does."""
    task = asyncio.create_task(bench.stream())
    await bench.clock.advance(seconds)
    await task
    return shown(bench)


def shown(bench: Bench) -> list[str]:
    said = {Restarted: "anew", Rerouted: "rerouted", Routed: "end", ToolCallDelta: "tool", ReasoningDelta: "thought"}
    return [part.text if isinstance(part, TextDelta) else said[type(part)] for part in bench.parts]


def restarts(bench: Bench) -> list[Restarted]:
    return [part for part in bench.parts if isinstance(part, Restarted)]


class TestAStreamThatBreaks:
    @pytest.mark.parametrize(
        ("kind", "reason", "tries"),
        [
            (FailureKind.TRUNCATED, RestartReason.CUT, 2),
            (FailureKind.CONNECTION, RestartReason.CUT, 2),
            (FailureKind.IDLE_TIMEOUT, RestartReason.STALLED, 1),
            (FailureKind.MALFORMED, RestartReason.MALFORMED, 1),
            (FailureKind.OVERLOADED, RestartReason.PROVIDER_ERROR, 2),
            (FailureKind.UNFORESEEN, RestartReason.PROVIDER_ERROR, 1),
        ],
    )
    async def test_begins_anew_at_the_next_target(self, kind: FailureKind, reason: RestartReason, tries: int) -> None:
        bench = Bench({"a": [broken(kind)], "b": [HELLO]}, restart=True)
        assert await streamed(bench) == ["half", "anew"] * tries + ["hello", " there", "end"]
        assert [part.reason for part in restarts(bench)] == [reason] * tries
        assert [part.attempt.key for part in restarts(bench)] == [attempt.key for attempt in bench.attempts[:-1]]

    @pytest.mark.parametrize(
        "kind", [FailureKind.TRUNCATED, FailureKind.IDLE_TIMEOUT, FailureKind.MALFORMED, FailureKind.SERVER_ERROR]
    )
    async def test_begins_anew_at_the_only_target(self, kind: FailureKind) -> None:
        bench = Bench({"a": [broken(kind, delay=40), HELLO]}, restart=True)
        assert await streamed(bench, seconds=60) == ["half", "anew", "hello", " there", "end"]

    async def test_is_not_asked_for_again_and_again_where_it_only_falls_silent(self) -> None:
        bench = Bench({"a": [broken(FailureKind.IDLE_TIMEOUT)]}, restart=True)
        with pytest.raises(Refused):
            await streamed(bench)
        assert shown(bench) == ["half", "anew", "half"]

    @pytest.mark.parametrize("kind", [FailureKind.CONTENT_FILTERED, FailureKind.SCHEMA_MISMATCH])
    async def test_stays_broken_where_every_target_would_do_the_same(self, kind: FailureKind) -> None:
        bench = Bench({"a": [broken(kind)], "b": [HELLO]}, restart=True)
        with pytest.raises(Refused):
            await streamed(bench)
        assert shown(bench) == ["half"]

    @pytest.mark.parametrize("first", [(ToolCallDelta("call", "", "look_up"),), (ReasoningDelta("hm"),)], ids=["tool", "thought"])
    async def test_is_void_whatever_it_had_shown(self, first: tuple[StreamPart, ...]) -> None:
        bench = Bench({"a": [broken(FailureKind.IDLE_TIMEOUT, first=first)], "b": [HELLO]}, restart=True)
        assert (await streamed(bench))[1:] == ["anew", "hello", " there", "end"]

    async def test_before_it_showed_anything_is_a_target_given_up(self) -> None:
        bench = Bench({"a": [broken(FailureKind.IDLE_TIMEOUT, first=())], "b": [HELLO]}, restart=True)
        assert await streamed(bench) == ["rerouted", "hello", " there", "end"]

    async def test_is_void_only_once_another_answer_begins(self) -> None:
        bench = Bench(
            {"a": [broken(FailureKind.IDLE_TIMEOUT)], "b": [fail(FailureKind.KEY_REFUSED)], "c": [Reply(text_answer("yes"))]},
            restart=True,
        )
        assert await streamed(bench) == ["half", "rerouted", "anew", "yes", "end"]
        assert restarts(bench)[0].attempt.provider == "a"

    async def test_stays_shown_where_no_other_answer_begins(self) -> None:
        bench = Bench({"a": [broken(FailureKind.IDLE_TIMEOUT)], "b": [fail(FailureKind.KEY_REFUSED)]}, restart=True)
        with pytest.raises(Refused) as caught:
            await streamed(bench)
        assert shown(bench) == ["half"]
        assert len(problem(caught.value, ProvidersFailed).attempts) == 2

    async def test_is_void_for_an_answer_without_words_too(self) -> None:
        bench = Bench({"a": [broken(FailureKind.IDLE_TIMEOUT)], "b": [Reply(text_answer(""))]}, restart=True)
        assert await streamed(bench) == ["half", "anew", "end"]

    async def test_is_final_where_the_call_does_not_ask_for_another(self) -> None:
        bench = Bench({"a": [broken(FailureKind.IDLE_TIMEOUT)], "b": [HELLO]})
        with pytest.raises(Refused):
            await streamed(bench)
        assert shown(bench) == ["half"]


class TestTheBounds:
    async def test_the_deadline_covers_all_attempts(self) -> None:
        bench = Bench({"a": [broken(delay=5)]}, restart=True)
        task = asyncio.create_task(bench.stream(within=8))
        await bench.clock.advance(30)
        with pytest.raises(Refused) as caught:
            await task
        assert problem(caught.value, ProvidersFailed).code in {ProblemCode.PROVIDER_ERROR, ProblemCode.TIMEOUT}
        assert len(bench.attempts) == 2

    async def test_an_attempt_that_cannot_be_paid_for_is_not_made(self) -> None:
        bench = Bench({"a": [broken(FailureKind.IDLE_TIMEOUT)], "b": [HELLO]}, restart=True)
        caps = iter([100, None])

        async def admit(_: Target) -> int | None:
            return next(caps)

        parts = bench.fleet.router.route_stream(bench.plan(), bench.call(), admit, bench.attempts.append, tenant="acme")
        with pytest.raises(Refused) as caught:
            bench.parts += [part async for part in parts]
        assert [attempt.outcome for attempt in problem(caught.value, ProvidersFailed).attempts] == [
            AttemptOutcome.TIMED_OUT,
            AttemptOutcome.SKIPPED_BUDGET,
        ]
        assert bench.providers["b"].calls == []

    async def test_a_target_that_cannot_be_given_the_call_is_passed_over(self) -> None:
        cannot: Step = Fail(Refused(InvalidInput("b does not take seed.", ("seed",))))
        bench = Bench({"a": [broken(FailureKind.IDLE_TIMEOUT)], "b": [cannot], "c": [HELLO]}, restart=True)
        assert await streamed(bench) == ["half", "anew", "hello", " there", "end"]

    async def test_a_caller_that_leaves_between_two_attempts_is_charged_for_one(self) -> None:
        bench = Bench({"a": [broken()]}, restart=True)
        task = asyncio.create_task(bench.stream())
        await bench.clock.advance(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bench.outcomes == ["a FAILED"]
