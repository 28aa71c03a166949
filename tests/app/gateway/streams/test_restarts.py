"""Streams that begin anew, as every process shows them and as they are charged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import pytest
from redis import Redis

from app.access.principal import Scope
from app.domain.attempts import AttemptOutcome
from app.domain.money import ZERO
from app.domain.problems import Conflict
from app.gateway.completions import CompletionRequest, OnClientLeave
from app.gateway.streams.events import (
    CompletionCancelled,
    CompletionDelta,
    CompletionEvent,
    CompletionFailed,
    CompletionFinished,
    CompletionHeartbeat,
    CompletionRestarted,
    CompletionStarted,
    ReasoningDelta,
    ToolCallDelta,
)
from app.llm.messages import Json, ReasoningEffort, Tool
from app.llm.routing import ProvidersFailed, RestartReason
from app.services import Services
from tests.app.access.principals import principal
from tests.app.conftest import OpenProcess
from tests.app.gateway.streams.test_streams import all_of, last, numbers, text_of
from tests.app.gateway.test_gateway import Held
from tests.services import ANTHROPIC, OPENAI, Stores, asked
from tests.simulators import RunningSimulator, StepFields

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ACME = principal(Scope.COMPLETIONS)
ANEW = replace(asked(model=None), restart=True)
KEYED = asked(key="k")
STALL: StepFields = {
    "operation": "completion",
    "fault": "stall",
    "after_tokens": 20,
    "answer": {"tokens": 60},
    "token_delay_ms": 5,
    "provider": "anthropic",
}
LOOK_UP: dict[str, Json] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def answer_of(events: list[CompletionEvent]) -> list[CompletionEvent]:
    """What is not void."""
    places = [place for place, event in enumerate(events) if isinstance(event, CompletionRestarted)]
    return events[places[-1] + 1 :] if places else events


def restart_of(events: list[CompletionEvent]) -> CompletionRestarted:
    [found] = [event for event in events if isinstance(event, CompletionRestarted)]
    return found


def reasoning_of(events: list[CompletionEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReasoningDelta))


def spoken(value: Json) -> Iterator[tuple[str, Json]]:
    """Every text of an opaque value by its name."""
    for name, branch in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield str(name), branch
        yield from spoken(branch)


class TestAStreamThatBeginsAnew:
    async def test_ends_with_one_whole_answer_and_all_it_cost(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator
    ) -> None:
        budget = await Held(services).begin()
        simulator.post(STALL)
        other = await open_process()
        events = await all_of(services.gateway.stream(ANEW, ACME))
        completion = last(events, CompletionFinished).completion
        assert numbers(events) == list(range(1, len(events) + 1))
        assert text_of(answer_of(events)) == completion.text
        assert text_of(events) != completion.text
        broken, answered = completion.attempts
        assert restart_of(events).attempt == broken
        assert restart_of(events).reason is RestartReason.STALLED
        assert (broken.provider, broken.outcome, answered.provider) == ("anthropic", AttemptOutcome.TIMED_OUT, "openai")
        assert broken.cost_usd is not None
        assert answered.cost_usd is not None
        assert broken.cost_usd > 0
        assert completion.cost_usd == broken.cost_usd + answered.cost_usd
        assert await budget.figures() == (ZERO, completion.cost_usd)
        assert await services.gateway.completion(completion.key, ACME) == completion
        for process in (services, other):
            assert await all_of(process.gateway.events(completion.key, None, ACME)) == events
            after = restart_of(events).cursor
            assert await all_of(process.gateway.events(completion.key, after, ACME)) == answer_of(events)

    async def test_is_followed_from_another_process_while_it_runs(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator
    ) -> None:
        simulator.post(STALL)
        other = await open_process()
        started = await services.gateway.start(ANEW, ACME)
        here, there = await asyncio.gather(
            all_of(services.gateway.events(started.key, None, ACME)), all_of(other.gateway.events(started.key, None, ACME))
        )
        assert here == there
        assert text_of(answer_of(there)) == last(there, CompletionFinished).completion.text

    async def test_discards_the_tool_calls_that_were_shown(self, services: Services, simulator: RunningSimulator) -> None:
        said: Json = {"tool": "look_up", "json": {"city": "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch"}}
        simulator.post({**STALL, "after_tokens": 8, "answer": said}, {"operation": "completion", "answer": said})
        request = replace(ANEW, tools=(Tool("look_up", LOOK_UP),))
        events = await all_of(services.gateway.stream(request, ACME))
        [call] = last(events, CompletionFinished).completion.tool_calls
        deltas = [event for event in answer_of(events) if isinstance(event, ToolCallDelta)]
        before = [event for event in events[: -len(answer_of(events))] if isinstance(event, ToolCallDelta)]
        assert before
        assert {delta.tool_call_id for delta in deltas} == {call.id}
        assert "".join(delta.arguments_delta for delta in deltas) == call.arguments

    async def test_says_so_after_reasoning_alone(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post({**STALL, "answer": {"tokens": 10, "thinking_tokens": 40}})
        request = replace(ANEW, stream_reasoning=True, reasoning_effort=ReasoningEffort.LOW, max_output_tokens=4000)
        events = await all_of(services.gateway.stream(request, ACME))
        assert reasoning_of(events) != ""
        assert text_of(events[: events.index(restart_of(events))]) == ""
        assert text_of(answer_of(events)) == last(events, CompletionFinished).completion.text

    async def test_begins_anew_as_often_as_it_breaks(self, services: Services, simulator: RunningSimulator) -> None:
        cut: StepFields = {**STALL, "fault": "cut"}
        simulator.post(cut, cut, {**STALL, "provider": "openai", "fault": "malformed"})
        events = await all_of(services.gateway.stream(ANEW, ACME))
        completion = last(events, CompletionFinished).completion
        restarts = [event for event in events if isinstance(event, CompletionRestarted)]
        assert [event.reason for event in restarts] == [RestartReason.CUT, RestartReason.CUT, RestartReason.MALFORMED]
        assert [event.attempt for event in restarts] == list(completion.attempts[:-1])
        assert text_of(answer_of(events)) == completion.text


class TestWhereNoWholeAnswerComes:
    async def test_without_the_wish_it_fails_with_its_partial(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(STALL)
        events = await all_of(services.gateway.stream(replace(ANEW, restart=False), ACME))
        partial = last(events, CompletionFailed).partial
        assert partial is not None
        assert partial.text == text_of(events) != ""
        assert len(partial.attempts) == 1

    async def test_the_partial_is_what_was_shown_last(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post({**STALL, "provider": None, "fault": "malformed", "count": None})
        events = await all_of(services.gateway.stream(ANEW, ACME))
        failed = last(events, CompletionFailed)
        assert isinstance(failed.problem, ProvidersFailed)
        assert failed.partial is not None
        assert failed.partial.text == text_of(answer_of(events)) != ""
        assert failed.partial.attempts == failed.problem.attempts
        assert all(attempt.cost_usd for attempt in failed.partial.attempts)
        assert len(failed.partial.attempts) == 3

    async def test_a_budget_that_cannot_pay_for_another_attempt_ends_it_with_its_partial(
        self, services: Services, simulator: RunningSimulator
    ) -> None:
        simulator.post(STALL)
        request = replace(ANEW, min_output_tokens=200)
        estimate = (await services.planner.plan(request, ACME, streamed=True)).estimate
        plan = (await services.planner.plan(request, ACME, streamed=True)).plan
        worst = estimate(plan.targets[0])
        assert worst.input_usd is not None
        assert worst.output_token_usd is not None
        budget = await Held(services).begin(str(worst.input_usd + 200 * worst.output_token_usd))
        events = await all_of(services.gateway.stream(request, ACME))
        failed = last(events, CompletionFailed)
        assert isinstance(failed.problem, ProvidersFailed)
        assert failed.partial is not None
        assert failed.partial.text == text_of(events) != ""
        assert [attempt.outcome for attempt in failed.problem.attempts] == [
            AttemptOutcome.TIMED_OUT,
            AttemptOutcome.SKIPPED_BUDGET,
        ]
        assert await budget.figures() == (ZERO, failed.partial.cost_usd)

    async def test_a_cancellation_while_it_begins_anew_keeps_the_new_answer_alone(
        self, services: Services, simulator: RunningSimulator
    ) -> None:
        budget = await Held(services).begin()
        simulator.post(STALL, {"operation": "completion", "answer": {"tokens": 60}, "token_delay_ms": 50})
        seen: list[CompletionEvent] = []
        async with asyncio.timeout(30), aclosing(services.gateway.stream(ANEW, ACME)) as events:
            async for event in events:
                if not isinstance(event, CompletionHeartbeat):
                    seen.append(event)
                if isinstance(event, CompletionDelta) and any(isinstance(each, CompletionRestarted) for each in seen):
                    started = seen[0]
                    assert isinstance(started, CompletionStarted)
                    await services.gateway.cancel(started.key, ACME)
        cancelled = last(seen, CompletionCancelled).completion
        assert cancelled.text == text_of(answer_of(seen)) != ""
        assert [attempt.outcome for attempt in cancelled.attempts] == [AttemptOutcome.TIMED_OUT, AttemptOutcome.CANCELLED]
        assert await budget.figures() == (ZERO, cancelled.cost_usd)


class TestReasoning:
    @pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
    async def test_streams_from_a_compatible_server(self, services: Services, simulator: RunningSimulator, field: str) -> None:
        simulator.post({"operation": "completion", "answer": {"tokens": 10, "thinking_tokens": 30, "thinking_field": field}})
        events = await all_of(services.gateway.stream(replace(asked(model=OPENAI), stream_reasoning=True), ACME))
        completion = last(events, CompletionFinished).completion
        assert (field, reasoning_of(events)) in spoken(completion.reasoning)
        assert text_of(events) == completion.text

    async def test_streams_from_anthropic(self, services: Services, open_process: OpenProcess) -> None:
        request = replace(asked(model=ANTHROPIC, cap=4000), stream_reasoning=True, reasoning_effort=ReasoningEffort.LOW)
        events = await all_of(services.gateway.stream(request, ACME))
        completion = last(events, CompletionFinished).completion
        assert ("thinking", reasoning_of(events)) in spoken(completion.reasoning)
        other = await open_process()
        assert await all_of(other.gateway.events(completion.key, None, ACME)) == events

    async def test_is_sealed_in_the_log_as_text_is(self, services: Services, stores: Stores, simulator: RunningSimulator) -> None:
        said: Json = {"tokens": 10, "thinking_tokens": 30, "thinking_field": "reasoning"}
        simulator.post({"operation": "completion", "answer": said})
        events = await all_of(services.gateway.stream(replace(asked(model=OPENAI), stream_reasoning=True), ACME))
        with Redis.from_url(stores.valkey_url) as server:
            [log] = [key for key in server.scan_iter("greenlang:stream:*") if server.type(key) == b"stream"]
            entries = [fields[b"e"] for _, fields in server.xrange(log)]
        assert len(entries) == len(events)
        words = {word.encode() for word in (reasoning_of(events) + text_of(events)).split() if len(word) > 4}
        assert words
        assert not any(word in entry for word in words for entry in entries)

    @pytest.mark.parametrize("model", [ANTHROPIC, OPENAI])
    async def test_does_not_stream_unasked(self, services: Services, simulator: RunningSimulator, model: str) -> None:
        said: Json = {"tokens": 10, "thinking_tokens": 30, "thinking_field": "reasoning_content"}
        simulator.post({"operation": "completion", "answer": said})
        events = await all_of(services.gateway.stream(asked(model=model), ACME))
        assert last(events, CompletionFinished).completion.reasoning is not None
        assert reasoning_of(events) == ""


class TestAnIdempotencyKey:
    @pytest.mark.parametrize(
        "other",
        [
            replace(KEYED, restart=True),
            replace(KEYED, stream_reasoning=True),
            replace(KEYED, on_client_leave=OnClientLeave.CANCEL),
        ],
        ids=["restart", "reasoning", "leave"],
    )
    async def test_is_not_joined_by_a_caller_that_asks_for_something_else(
        self, services: Services, other: CompletionRequest
    ) -> None:
        await all_of(services.gateway.stream(KEYED, ACME))
        [event] = await all_of(services.gateway.stream(other, ACME))
        assert isinstance(event, CompletionFailed)
        assert isinstance(event.problem, Conflict)
