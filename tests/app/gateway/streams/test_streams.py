from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import TypeVar
from uuid import UUID, uuid4

import pytest

from app.access.principal import Principal, Scope
from app.domain.attempts import AttemptOutcome
from app.domain.errors import Refused
from app.domain.paging import encode_cursor
from app.domain.problems import Conflict, InvalidInput, NotFound
from app.events.stream_log import StreamLog
from app.gateway.completions import Completion, CompletionStatus
from app.gateway.gateway import Gateway
from app.gateway.stored_completions import CompletionReader, StoredCompletions
from app.gateway.streams.events import (
    CompletionCancelled,
    CompletionDelta,
    CompletionEvent,
    CompletionFailed,
    CompletionFinished,
    CompletionHeartbeat,
    CompletionRerouted,
    CompletionStarted,
    ToolCallDelta,
)
from app.gateway.streams.streams import CompletionStreams
from app.llm.messages import FinishReason, Json, JsonSchemaFormat, Tool
from app.llm.routing import ProvidersFailed
from app.redis.clients import connect_redis
from app.secrets.sealing import Sealer
from app.services import Services
from app.settings import ContentSettings
from simulator.attempts import Entry
from tests.app.access.principals import principal
from tests.app.conftest import OpenProcess
from tests.app.gateway.admissions import admit_only
from tests.app.gateway.streams.local_seals import LocalSeals
from tests.services import ANTHROPIC, OPENAI, Stores, asked
from tests.simulators import RunningSimulator, StepFields

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ACME = principal(Scope.COMPLETIONS)
RESEARCH = principal(Scope.COMPLETIONS, agent="research", key=4)
GLOBEX = principal(Scope.COMPLETIONS, tenant="globex", key=2)
SLOW: StepFields = {"operation": "completion", "token_delay_ms": 20, "answer": {"tokens": 60}, "count": None}

Event = TypeVar("Event")


async def all_of(events: AsyncGenerator[CompletionEvent, None]) -> list[CompletionEvent]:
    """But for heartbeats, which come whenever it is time for one."""
    async with asyncio.timeout(30), aclosing(events):
        return [event async for event in events if not isinstance(event, CompletionHeartbeat)]


async def until(events: AsyncGenerator[CompletionEvent, None], kind: type[object]) -> list[CompletionEvent]:
    """Those up to the first of its kind; the watcher then leaves."""
    seen = []
    async with asyncio.timeout(30), aclosing(events):
        async for event in events:
            seen.append(event)
            if isinstance(event, kind):
                return seen
    raise AssertionError(f"ended without {kind.__name__}: {seen}")


async def seen_by(simulator: RunningSimulator, *, open_too: bool = False) -> list[Entry]:
    """The completions that arrived at the providers, once there is one and all have ended."""
    async with asyncio.timeout(15):
        while True:
            entries = [entry for entry in simulator.log() if entry.operation == "completion"]
            if entries and (open_too or all(entry.state != "open" for entry in entries)):
                return entries
            await asyncio.sleep(0.02)


def last(events: list[CompletionEvent], kind: type[Event]) -> Event:
    event = events[-1]
    assert isinstance(event, kind), event
    return event


def text_of(events: list[CompletionEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, CompletionDelta))


def numbers(events: list[CompletionEvent]) -> list[int]:
    return [event.number for event in events]


@asynccontextmanager
async def late_gateway(services: Services, end: Callable[[UUID], Awaitable[None]], stores: Stores) -> AsyncIterator[Gateway]:
    """A process that finds a call only after `end` has ended it."""

    class LateReader(CompletionReader):
        async def find(self, key: UUID, principal: Principal) -> Completion | None:
            await end(key)
            return await super().find(key, principal)

    documents = StoredCompletions(Sealer(), keep_content=True)
    redis = connect_redis(stores.valkey_url, services.settings.redis, services.clock)
    streams = CompletionStreams(
        services.clock,
        StreamLog(redis),
        LocalSeals(),
        services.leases,
        router=services.fleet.router,
        completions=CompletionReader(services.ledger, documents),
    )
    yield Gateway(
        clock=services.clock,
        fleet=services.fleet,
        ledger=services.ledger,
        keys=services.keys,
        planner=services.planner,
        leases=services.leases,
        completions=LateReader(services.ledger, documents),
        streams=streams,
        drain=services.drain,
    )
    await redis.close()


class TestStream:
    @pytest.mark.parametrize("model", [ANTHROPIC, OPENAI])
    async def test_reports_the_start_the_text_and_the_whole_answer(self, services: Services, model: str) -> None:
        events = await all_of(services.gateway.stream(asked(model=model), ACME))
        completion = last(events, CompletionFinished).completion
        assert isinstance(events[0], CompletionStarted)
        assert text_of(events) == completion.text
        assert numbers(events) == list(range(1, len(events) + 1))
        assert completion.cost_usd is not None
        assert completion.cost_usd > 0
        assert await services.gateway.completion(completion.key, ACME) == completion

    async def test_merges_tokens_that_come_together(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post({"operation": "completion", "answer": {"tokens": 500}})
        events = await all_of(services.gateway.stream(asked(cap=1000), ACME))
        assert len(events) < 100
        assert text_of(events) == last(events, CompletionFinished).completion.text

    async def test_reports_of_a_target_that_failed_before_anything_was_shown(
        self, services: Services, simulator: RunningSimulator
    ) -> None:
        simulator.post({"operation": "completion", "fault": "status", "status": 503, "provider": "anthropic", "count": None})
        events = await all_of(services.gateway.stream(asked(model=None), ACME))
        completion = last(events, CompletionFinished).completion
        rerouted = [event.attempt for event in events if isinstance(event, CompletionRerouted)]
        assert completion.provider == "openai"
        assert rerouted == [completion.attempts[-2]]
        assert {attempt.provider for attempt in completion.attempts[:-1]} == {"anthropic"}

    async def test_passes_tool_calls_on_piece_by_piece(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post({"operation": "completion", "answer": {"tool": "look_up", "json": {"city": "Oslo"}}})
        request = asked()
        schema: dict[str, Json] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        request = type(request)(
            messages=request.messages, model=ANTHROPIC, tools=(Tool("look_up", schema),), max_output_tokens=200
        )
        events = await all_of(services.gateway.stream(request, ACME))
        completion = last(events, CompletionFinished).completion
        (call,) = completion.tool_calls
        deltas = [event for event in events if isinstance(event, ToolCallDelta)]
        assert deltas[0].name == "look_up"
        assert "".join(delta.arguments_delta for delta in deltas) == call.arguments
        assert completion.first_token_ms is not None

    async def test_ends_with_the_refusal_where_nothing_can_serve_it(self, services: Services) -> None:
        events = await all_of(services.gateway.stream(asked(model="nowhere/model"), ACME))
        failed = last(events, CompletionFailed)
        assert isinstance(failed.problem, InvalidInput)
        assert (len(events), failed.partial) == (1, None)

    async def test_ends_with_what_is_wrong_with_the_input(self, services: Services, simulator: RunningSimulator) -> None:
        odd = replace(asked(), response_format=JsonSchemaFormat("odd", {"type": "nothing"}))
        events = await all_of(services.gateway.stream(odd, ACME))
        failed = last(events, CompletionFailed)
        assert isinstance(failed.problem, InvalidInput)
        assert failed.partial is not None
        assert not failed.partial.attempts
        assert failed.partial.cost_usd == 0
        stored = await services.gateway.completion(failed.partial.key, ACME)
        assert stored is not None
        assert stored.problem == failed.problem
        assert [entry for entry in simulator.log() if entry.operation == "completion"] == []

    async def test_goes_on_when_no_one_watches(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        seen = await until(services.gateway.stream(asked(), ACME), CompletionDelta)
        started = seen[0]
        assert isinstance(started, CompletionStarted)
        events = await all_of(services.gateway.events(started.key, None, ACME))
        assert last(events, CompletionFinished).completion.usage is not None
        assert [entry.state for entry in await seen_by(simulator)] == ["completed"]

    async def test_never_ends_a_cut_answer_as_finished(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(
            {"operation": "completion", "fault": "cut", "after_tokens": 40, "answer": {"tokens": 60}, "token_delay_ms": 5}
        )
        events = await all_of(services.gateway.stream(asked(model=None), ACME))
        failed = last(events, CompletionFailed)
        assert isinstance(failed.problem, ProvidersFailed)
        assert failed.partial is not None
        assert failed.partial.text == text_of(events) != ""
        assert failed.partial.usage is not None
        assert not failed.partial.usage.confirmed
        assert failed.partial.cost_usd is not None
        assert failed.partial.cost_usd > 0


class TestWatchingFromAnotherProcess:
    async def test_shows_the_same_events(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator
    ) -> None:
        simulator.post(SLOW)
        other = await open_process()
        completion = await services.gateway.start(asked(), ACME)
        here, there = await asyncio.gather(
            all_of(services.gateway.events(completion.key, None, ACME)), all_of(other.gateway.events(completion.key, None, ACME))
        )
        assert here == there
        assert last(there, CompletionFinished).completion.text == text_of(there)

    async def test_goes_on_after_a_cursor_with_each_event_once(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator
    ) -> None:
        simulator.post(SLOW)
        processes = (services, await open_process())
        completion = await services.gateway.start(asked(), ACME)
        seen: list[CompletionEvent] = []
        for turn in range(1000):
            after = seen[-1].cursor if seen else None
            events = processes[turn % 2].gateway.events(completion.key, after, ACME)
            async with asyncio.timeout(30), aclosing(events):
                event = await anext(events)
            if not isinstance(event, CompletionHeartbeat):
                seen.append(event)
            if isinstance(event, CompletionFinished):
                break
        assert numbers(seen) == list(range(1, len(seen) + 1))
        assert text_of(seen) == last(seen, CompletionFinished).completion.text

    async def test_gives_the_rest_after_the_end(self, services: Services, open_process: OpenProcess) -> None:
        other = await open_process()
        events = await all_of(services.gateway.stream(asked(), ACME))
        key = last(events, CompletionFinished).completion.key
        for process in (services, other):
            assert await all_of(process.gateway.events(key, events[0].cursor, ACME)) == events[1:]
            assert await all_of(process.gateway.events(key, events[-1].cursor, ACME)) == []

    async def test_reads_what_is_sealed(self, open_process: OpenProcess, stores: Stores, simulator: RunningSimulator) -> None:
        content = ContentSettings(encryption_keys=(stores.secret("content", "ab" * 32),))
        settings = stores.settings(simulator, content=content)
        first, second = await open_process(settings), await open_process(settings)
        events = await all_of(first.gateway.stream(asked(), ACME))
        key = last(events, CompletionFinished).completion.key
        assert await all_of(second.gateway.events(key, None, ACME)) == events

    async def test_shows_deltas_where_content_is_not_kept(
        self, open_process: OpenProcess, stores: Stores, simulator: RunningSimulator
    ) -> None:
        simulator.post(SLOW)
        settings = stores.settings(simulator, content=ContentSettings(store=False))
        first, second = await open_process(settings), await open_process(settings)
        completion = await first.gateway.start(asked(), ACME)
        here, there = await asyncio.gather(
            all_of(first.gateway.events(completion.key, None, ACME)), all_of(second.gateway.events(completion.key, None, ACME))
        )
        assert text_of(here) == text_of(there) == last(here, CompletionFinished).completion.text
        assert last(there, CompletionFinished).completion.text is None


class TestWatching:
    async def test_shows_nothing_to_another_tenant_or_agent(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        completion = await services.gateway.start(asked(), ACME)
        for other_caller in (GLOBEX, RESEARCH):
            failed = last(await all_of(services.gateway.events(completion.key, None, other_caller)), CompletionFailed)
            assert isinstance(failed.problem, NotFound)
            assert failed.partial is None
        await all_of(services.gateway.events(completion.key, None, ACME))
        for other_caller in (GLOBEX, RESEARCH):
            failed = last(await all_of(services.gateway.events(completion.key, None, other_caller)), CompletionFailed)
            assert isinstance(failed.problem, NotFound)

    async def test_lets_a_bound_key_watch_what_it_started(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        completion = await services.gateway.start(asked(), RESEARCH)
        found = await services.gateway.completion(completion.key, RESEARCH)
        assert found is not None
        assert found.status is CompletionStatus.RUNNING
        assert (
            last(await all_of(services.gateway.events(completion.key, None, RESEARCH)), CompletionFinished).completion.agent
            == "research"
        )

    async def test_does_not_know_what_never_was(self, services: Services) -> None:
        failed = last(await all_of(services.gateway.events(uuid4(), None, ACME)), CompletionFailed)
        assert isinstance(failed.problem, NotFound)

    @pytest.mark.parametrize(
        "cursor",
        ["", "nonsense", encode_cursor("alerts", "3"), encode_cursor("completion", "-1"), encode_cursor("completion", "9" * 30)],
    )
    async def test_refuses_what_is_no_cursor_of_it(self, services: Services, cursor: str) -> None:
        failed = last(await all_of(services.gateway.events(uuid4(), cursor, ACME)), CompletionFailed)
        assert isinstance(failed.problem, InvalidInput)

    async def test_refuses_a_cursor_beyond_the_end(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator
    ) -> None:
        simulator.post(SLOW)
        other = await open_process()
        completion = await services.gateway.start(asked(), ACME)
        beyond = encode_cursor("completion", "5000")
        watched = await asyncio.gather(
            all_of(services.gateway.events(completion.key, beyond, ACME)),
            all_of(other.gateway.events(completion.key, beyond, ACME)),
        )
        for events in (*watched, await all_of(services.gateway.events(completion.key, beyond, ACME))):
            assert isinstance(last(events, CompletionFailed).problem, InvalidInput)

    async def test_reports_a_completion_that_was_not_streamed_from_its_result(self, services: Services) -> None:
        completion = await services.gateway.complete(asked(), ACME)
        events = await all_of(services.gateway.events(completion.key, None, ACME))
        assert [type(event) for event in events] == [CompletionStarted, CompletionDelta, CompletionFinished]
        assert text_of(events) == completion.text
        assert await all_of(services.gateway.events(completion.key, events[1].cursor, ACME)) == events[2:]
        assert await all_of(services.gateway.events(completion.key, events[2].cursor, ACME)) == []


class TestCancel:
    @pytest.mark.parametrize("model", [ANTHROPIC, OPENAI])
    async def test_charges_what_had_come(self, services: Services, simulator: RunningSimulator, model: str) -> None:
        simulator.post(SLOW)
        seen = await until(services.gateway.stream(asked(model=model), ACME), CompletionDelta)
        started = seen[0]
        assert isinstance(started, CompletionStarted)
        cancelled = await services.gateway.cancel(started.key, ACME)
        assert (cancelled.status, cancelled.finish_reason) == (CompletionStatus.CANCELLED, FinishReason.CANCELLED)
        assert cancelled.usage is not None
        assert not cancelled.usage.confirmed
        assert 0 < cancelled.usage.output_tokens < 60
        assert cancelled.usage.input_tokens > 0
        assert cancelled.cost_usd is not None
        assert cancelled.cost_usd > 0
        assert [attempt.outcome for attempt in cancelled.attempts] == [AttemptOutcome.CANCELLED]
        events = await all_of(services.gateway.events(started.key, None, ACME))
        assert last(events, CompletionCancelled).completion == cancelled
        assert text_of(events) == cancelled.text
        assert [entry.state for entry in await seen_by(simulator)] == ["disconnected"]

    async def test_reaches_the_process_that_runs_it(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator
    ) -> None:
        simulator.post(SLOW | {"answer": {"tokens": 500}})
        other = await open_process()
        completion = await services.gateway.start(asked(cap=600), ACME)
        assert (await other.gateway.cancel(completion.key, ACME)).status is CompletionStatus.CANCELLED

    async def test_stops_a_completion_that_is_not_streamed(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator
    ) -> None:
        simulator.post({"operation": "completion", "headers_delay_ms": 5000})
        other = await open_process()
        waiting = asyncio.create_task(services.gateway.complete(asked(key="one"), ACME))
        await seen_by(simulator, open_too=True)
        running = await other.gateway.start(asked(key="one"), ACME)
        cancelled = await other.gateway.cancel(running.key, ACME)
        assert cancelled.status is CompletionStatus.CANCELLED
        assert cancelled.usage is not None
        assert cancelled.usage.input_tokens > 0
        assert await waiting == cancelled

    async def test_before_anything_was_sent_charges_nothing(self, services: Services, simulator: RunningSimulator) -> None:
        completion = await services.gateway.start(asked(), ACME)
        cancelled = await services.gateway.cancel(completion.key, ACME)
        assert cancelled.status in {CompletionStatus.CANCELLED, CompletionStatus.FINISHED}
        events = await all_of(services.gateway.events(completion.key, None, ACME))
        assert isinstance(events[0], CompletionStarted)
        assert events[-1].number == len(events)
        assert (cancelled.usage is None) == (not cancelled.attempts)

    async def test_changes_nothing_after_the_end(self, services: Services) -> None:
        events = await all_of(services.gateway.stream(asked(), ACME))
        completion = last(events, CompletionFinished).completion
        assert await services.gateway.cancel(completion.key, ACME) == completion

    async def test_does_not_know_another_tenants(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        completion = await services.gateway.start(asked(), ACME)
        with pytest.raises(Refused) as refused:
            await services.gateway.cancel(completion.key, GLOBEX)
        assert isinstance(refused.value.reason, NotFound)
        last(await all_of(services.gateway.events(completion.key, None, ACME)), CompletionFinished)


class TestIdempotencyKey:
    async def test_joins_the_running_stream_here_and_elsewhere(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator
    ) -> None:
        simulator.post(SLOW)
        other = await open_process()
        request = asked(key="same")
        streams = await asyncio.gather(*(all_of(process.gateway.stream(request, ACME)) for process in (services, other) * 5))
        assert all(events == streams[0] for events in streams)
        completion = last(streams[0], CompletionFinished).completion
        assert len(await seen_by(simulator)) == 1
        assert await other.gateway.complete(request, ACME) == completion
        assert await all_of(other.gateway.stream(request, ACME)) == streams[0]
        assert len(await seen_by(simulator)) == 1

    async def test_of_a_completion_that_waits_joins_it_too(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator
    ) -> None:
        simulator.post({"operation": "completion", "headers_delay_ms": 900})
        other = await open_process()
        request = asked(key="mixed")
        answer, events = await asyncio.gather(
            services.gateway.complete(request, ACME), all_of(other.gateway.stream(request, ACME))
        )
        assert last(events, CompletionFinished).completion == answer
        assert len(await seen_by(simulator)) == 1

    async def test_of_a_call_that_ends_at_that_moment_without_having_used_anything_starts_it(
        self, services: Services, open_process: OpenProcess, stores: Stores
    ) -> None:
        other = await open_process()
        await admit_only(services, asked(key="k"), ACME)
        async with late_gateway(other, services.ledger.release, stores) as gateway:
            started = await gateway.start(asked(key="k"), ACME)
            last(await all_of(gateway.events(started.key, None, ACME)), CompletionFinished)

    async def test_with_another_input_is_a_conflict(self, services: Services) -> None:
        await all_of(services.gateway.stream(asked("one", key="k"), ACME))
        events = await all_of(services.gateway.stream(asked("two", key="k"), ACME))
        assert isinstance(last(events, CompletionFailed).problem, Conflict)

    async def test_is_the_tenants_own(self, services: Services) -> None:
        first = last(await all_of(services.gateway.stream(asked(key="k"), ACME)), CompletionFinished)
        second = last(await all_of(services.gateway.stream(asked(key="k"), GLOBEX)), CompletionFinished)
        assert first.completion.key != second.completion.key
        assert Decimal(0) != first.completion.cost_usd
