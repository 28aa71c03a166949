from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import FailureKind, ProviderError, Refused
from app.domain.problems import InvalidInput
from app.domain.usage import RateLimitReport, TokenUsage
from app.llm.messages import AnswerEnd, EmbedCall, Embedded, ModelCall, StreamPart, TextDelta
from app.llm.provider import Provider
from app.llm.providers.scripted import Fail, Reply, Step, Vectors, text_answer
from app.llm.resilience.breaker import BreakerStatus
from app.llm.resilience.guarded import CallContext, Guarded, TargetSkipped
from app.llm.resilience.limiter import LimiterKind
from app.llm.routing import Target
from app.settings import ProviderLimits
from tests.app.llm.fleets import HELLO, Bench, fail
from tests.clocks import settle

pytestmark = pytest.mark.anyio


class One:
    """One target behind its guards."""

    def __init__(self, *steps: Step) -> None:
        limits = ProviderLimits(requests_per_minute=100, tokens_per_minute=10_000)
        self.bench = Bench({"a": steps}, limits=limits)
        guarded = self.bench.fleet.find(Target("a", "m"))
        assert guarded is not None
        self.guarded: Guarded = guarded
        self.call_context = CallContext("acme", 10, observe=self.bench.attempts.append)

    def available(self, kind: LimiterKind) -> float:
        return next(state.available for state in self.guarded.limiter.states if state.kind is kind)

    async def stream(self) -> list[StreamPart]:
        return [part async for part in self.guarded.stream(self.bench.call(), self.call_context)]


class TestAsAProvider:
    async def test_it_answers_as_the_provider_behind_it_does(self) -> None:
        one = One(HELLO)
        provider: Provider = one.guarded
        assert (await provider.complete(one.bench.call())).text == "hello there"
        assert [part async for part in provider.stream(one.bench.call())][-1] == AnswerEnd(HELLO.answer)
        await provider.probe()
        assert (provider.name, provider.kind, one.bench.providers["a"].probes) == ("a", "scripted", 1)

    async def test_embeddings_pass_the_same_guards(self) -> None:
        vectors = Embedded(((0.5,),), TokenUsage(uncached_input_tokens=3), "m")
        one = One(fail(FailureKind.OVERLOADED), Vectors(vectors))
        call = EmbedCall("", ("hello",), one.bench.clock.monotonic() + 60)
        task = asyncio.create_task(one.guarded.embed(call, one.call_context))
        await one.bench.clock.advance(2)
        assert await task == vectors
        assert [attempt.outcome.value for attempt in one.call_context.attempts] == ["FAILED", "SUCCEEDED"]


class TestWhatAnAttemptSays:
    async def test_success_has_usage_and_latency(self) -> None:
        one = One(Reply(text_answer("x"), delay=2))
        task = asyncio.create_task(one.guarded.complete(one.bench.call(), one.call_context))
        await one.bench.clock.advance(2)
        await task
        [attempt] = one.bench.attempts
        assert (attempt.outcome, attempt.status_code, attempt.latency_ms) == (AttemptOutcome.SUCCEEDED, 200, 2_000)
        assert attempt.usage == TokenUsage(uncached_input_tokens=10, visible_output_tokens=1)

    async def test_a_failure_has_what_the_provider_billed_for_it(self) -> None:
        usage = TokenUsage(uncached_input_tokens=10, visible_output_tokens=90)
        error = ProviderError(FailureKind.SCHEMA_MISMATCH, status_code=200, provider_request_id="req-1", usage=usage)
        one = One(Fail(error))
        with pytest.raises(ProviderError):
            await one.guarded.complete(one.bench.call(), one.call_context)
        [attempt] = one.bench.attempts
        assert (attempt.usage, attempt.provider_request_id, attempt.status_code) == (usage, "req-1", 200)
        assert one.available(LimiterKind.TOKENS) == 9_900

    async def test_a_skip_was_never_sent(self) -> None:
        one = One(HELLO)

        async def refuse(_: Target) -> int | None:
            return None

        with pytest.raises(TargetSkipped):
            await one.guarded.complete(one.bench.call(), CallContext(admit=refuse, observe=one.bench.attempts.append))
        assert one.bench.attempts[0].outcome is AttemptOutcome.SKIPPED_BUDGET
        assert one.available(LimiterKind.REQUESTS) == 100


class TestWhatNoAdapterShouldRaise:
    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize("error", [ValueError("hidden"), RecursionError(), UnicodeError(), KeyError("hidden")], ids=repr)
    async def test_is_a_failure_of_the_target_that_others_repair(
        self, error: Exception, caplog: pytest.LogCaptureFixture, *, streamed: bool
    ) -> None:
        bench = Bench({"a": [Fail(error)], "b": [HELLO]})
        if streamed:
            await bench.stream()
        else:
            await bench.complete()
        assert bench.outcomes == ["a FAILED", "b SUCCEEDED"]
        [record] = caplog.records
        assert (vars(record)["error"], "hidden" in str(vars(record))) == (type(error).__name__, False)
        guarded = bench.fleet.find(Target("a", "m"))
        assert guarded is not None
        assert guarded.breaker.state.consecutive_failures == 0


class TestSettling:
    @pytest.mark.parametrize(
        ("kind", "requests", "tokens"),
        [
            (FailureKind.CONNECT_TIMEOUT, 0, 0),
            (FailureKind.KEY_REFUSED, 1, 0),
            (FailureKind.IDLE_TIMEOUT, 1, 110),
        ],
    )
    async def test_a_failure_costs_what_it_may_have_used(self, kind: FailureKind, requests: int, tokens: int) -> None:
        one = One(fail(kind))
        with pytest.raises(ProviderError):
            await one.guarded.complete(one.bench.call(), one.call_context)
        assert one.available(LimiterKind.REQUESTS) == 100 - requests
        assert one.available(LimiterKind.TOKENS) == 10_000 - tokens

    async def test_a_try_that_was_never_answered_may_have_used_all(self) -> None:
        guess = TokenUsage(uncached_input_tokens=10, confirmed=False)
        one = One(Fail(ProviderError(FailureKind.TOTAL_TIMEOUT, usage=guess, unanswered_seconds=1.0)))
        with pytest.raises(ProviderError):
            await one.guarded.complete(one.bench.call(), one.call_context)
        assert one.available(LimiterKind.TOKENS) == 10_000 - 110

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_what_the_adapter_refuses_was_never_sent(self, *, streamed: bool) -> None:
        one = One(Fail(Refused(InvalidInput("m does not take seed.", ("seed",)))))
        with pytest.raises(Refused):
            await (one.stream() if streamed else one.guarded.complete(one.bench.call(), one.call_context))
        assert one.bench.attempts == []
        assert (one.available(LimiterKind.REQUESTS), one.available(LimiterKind.TOKENS)) == (100, 10_000)

    async def test_a_report_of_the_provider_is_a_hint_of_its_model_alone(self) -> None:
        answer = replace(text_answer("x"), rate_limits=RateLimitReport(requests_remaining=3))
        one = One(Reply(answer))
        await one.guarded.complete(one.bench.call(), one.call_context)
        assert [(state.model, state.available) for state in one.guarded.allowance.states()] == [("m", 3)]
        assert one.available(LimiterKind.REQUESTS) == 99

    async def test_so_is_the_report_of_a_failure(self) -> None:
        error = ProviderError(FailureKind.RATE_LIMITED, status_code=429, rate_limits=RateLimitReport(tokens_remaining=30))
        one = One(Fail(error))
        waiting = asyncio.create_task(one.guarded.complete(one.bench.call(), one.call_context))
        await settle()
        assert [(state.kind, state.available) for state in one.guarded.allowance.states()] == [(LimiterKind.TOKENS, 30)]
        assert one.guarded.seconds_until(110) > 0
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    async def test_a_cancelled_wait_for_the_limiter_holds_nothing(self) -> None:
        one = One(HELLO)
        hold = await one.guarded.limiter.acquire("acme", 10_000, 1e9)
        task = asyncio.create_task(one.guarded.complete(one.bench.call(), one.call_context))
        await settle()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        hold.release()
        assert one.available(LimiterKind.TOKENS) == 10_000
        assert one.bench.providers["a"].calls == []
        await one.guarded.limiter.close()


class _Endless:
    """A provider that breaks its word: its stream ends without a last part."""

    name, kind = "a", "broken"

    def __init__(self) -> None:
        self.closed = 0

    async def stream(self, call: ModelCall) -> AsyncIterator[StreamPart]:
        try:
            yield TextDelta("half")
        finally:
            self.closed += 1


class TestStreams:
    async def test_one_is_started_again_while_nothing_was_shown(self) -> None:
        one = One(fail(FailureKind.MALFORMED), HELLO)
        task = asyncio.create_task(one.stream())
        await one.bench.clock.advance(2)
        assert [part.text for part in await task if isinstance(part, TextDelta)] == ["hello", " there"]

    async def test_one_that_was_cut_is_not(self) -> None:
        one = One(Fail(ProviderError(FailureKind.TRUNCATED), first=(TextDelta("half"),)), HELLO)
        with pytest.raises(ProviderError):
            await one.stream()
        assert len(one.bench.providers["a"].calls) == 1

    async def test_one_without_its_last_part_is_truncated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one, broken = One(HELLO), _Endless()
        monkeypatch.setattr(one.bench.providers["a"], "stream", broken.stream)
        with pytest.raises(ProviderError) as caught:
            await one.stream()
        assert caught.value.kind is FailureKind.TRUNCATED
        assert broken.closed == 1

    async def test_the_breaker_learns_of_streams_that_are_cut(self) -> None:
        one = One(Fail(ProviderError(FailureKind.TRUNCATED), first=(TextDelta("half"),)))
        for _ in range(5):
            with pytest.raises(ProviderError):
                await one.stream()
        with pytest.raises(TargetSkipped):
            await one.stream()
        outcomes = [attempt.outcome for attempt in one.bench.attempts]
        assert outcomes == [AttemptOutcome.FAILED] * 5 + [AttemptOutcome.SKIPPED_OPEN_CIRCUIT]

    async def test_failures_between_the_first_tokens_of_streams_under_way_leave_it_closed(self) -> None:
        three_rounds: list[Step] = [
            Reply(text_answer("a long answer"), gap=100),
            *[fail(FailureKind.FIRST_TOKEN_TIMEOUT)] * 4,
        ] * 3
        one = One(*three_rounds)
        running = []
        for _ in range(3):
            running.append(one.guarded.stream(one.bench.call(), one.call_context))
            await anext(running[-1])
            for _ in range(4):
                with pytest.raises(ProviderError):
                    await one.guarded.complete(one.bench.call(), one.call_context)
        state = one.guarded.breaker.state
        assert (state.status, state.consecutive_failures) == (BreakerStatus.CLOSED, 4)
        for parts in running:
            await parts.aclose()


class TestProbeOfTheBreaker:
    async def test_many_calls_at_once_send_one_probe(self) -> None:
        one = One(*[fail(FailureKind.FIRST_TOKEN_TIMEOUT)] * 5, Reply(text_answer("back"), delay=1))
        for _ in range(5):
            with pytest.raises(ProviderError):
                await one.guarded.complete(one.bench.call(), one.call_context)
        await one.bench.clock.advance(60)
        seen: list[Attempt] = []
        tasks = [asyncio.create_task(one.guarded.complete(one.bench.call(), CallContext(observe=seen.append))) for _ in range(20)]
        await one.bench.clock.advance(2)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(result, TargetSkipped) for result in results) == 19
        assert len(one.bench.providers["a"].calls) == 6
        assert one.available(LimiterKind.REQUESTS) == pytest.approx(100, abs=1)

    async def test_the_first_token_of_a_probes_stream_lets_the_others_in(self) -> None:
        one = One(*[fail(FailureKind.FIRST_TOKEN_TIMEOUT)] * 5, Reply(text_answer("a long answer"), gap=100), HELLO)
        for _ in range(5):
            with pytest.raises(ProviderError):
                await one.guarded.complete(one.bench.call(), one.call_context)
        await one.bench.clock.advance(60)
        probe = one.guarded.stream(one.bench.call(), one.call_context)
        await anext(probe)
        assert (await one.guarded.complete(one.bench.call(), one.call_context)).text == "hello there"
        await probe.aclose()
