"""Streams and the cache over GraphQL: an answer is replayed, or followed while another stream makes it."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from app.access.principal import Principal
from tests.schema.api import ACME, Api, Data
from tests.schema.cached import COSTS, USE, ask, calls, until_ready
from tests.schema.requests import EVER
from tests.simulators import RunningSimulator, StepFields

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def ready(api: Api) -> None:
    await until_ready(api)


WATCH = """
subscription Watch($input: CompletionInput!) {
  completionStream(input: $input) {
    __typename
    ... on CompletionStarted { completionId }
    ... on CompletionDelta { text }
    ... on ToolCallDelta { toolCallId name argumentsDelta }
    ... on CompletionFinished { completion { id text costUsd cacheKey cache { tier savedUsd } attempts { id } } }
    ... on CompletionFailed { problem { ... on Problem { code message } } }
  }
}
"""


async def watch(api: Api, caller: Principal = ACME, **changes: object) -> list[Data]:
    asked = {"messages": [{"role": "USER", "text": "What is new?"}], "maxOutputTokens": 50, "cache": USE, **changes}
    return [event["completionStream"] async for event in api.events(WATCH, caller, input=asked)]


def text_of(events: list[Data]) -> str:
    return "".join(event["text"] or "" for event in events if event["__typename"] == "CompletionDelta")


class TestAStream:
    async def test_is_stored_and_replayed(self, api: Api, simulator: RunningSimulator) -> None:
        first, second = await watch(api), await watch(api)
        for events in (first, second):
            assert events[0]["__typename"] == "CompletionStarted"
            assert events[-1]["__typename"] == "CompletionFinished"
            assert text_of(events) == events[-1]["completion"]["text"] == text_of(first)
        given = second[-1]["completion"]
        assert first[-1]["completion"]["cache"] is None
        assert [given["cache"]["tier"], given["attempts"], Decimal(given["costUsd"])] == ["MEMORY", [], 0]
        assert Decimal(given["cache"]["savedUsd"]) == Decimal(first[-1]["completion"]["costUsd"])
        assert calls(simulator) == 1

    async def test_and_a_whole_answer_share_what_is_stored(self, api: Api, simulator: RunningSimulator) -> None:
        whole = await ask(api)
        assert text_of(await watch(api)) == whole["text"]
        assert (await ask(api))["cache"] is not None
        assert calls(simulator) == 1

    async def test_is_counted_with_what_it_saved(self, api: Api) -> None:
        first = await ask(api)
        await watch(api)
        totals = (await api.data(COSTS, filter=EVER))["costs"]["totals"]
        assert (totals["requests"], totals["cacheHits"]) == ("2", "1")
        assert Decimal(totals["savedUsd"]) == Decimal(totals["costUsd"]) == Decimal(first["costUsd"])

    async def test_of_tool_calls_is_replayed(self, api: Api, simulator: RunningSimulator) -> None:
        tools = [{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]
        seen: list[tuple[str, str]] = []
        for _ in range(2):
            events = await watch(api, tools=tools, messages=[{"role": "USER", "text": "Ask weather."}], maxOutputTokens=400)
            deltas = [event for event in events if event["__typename"] == "ToolCallDelta"]
            seen.append((deltas[0]["name"], "".join(delta["argumentsDelta"] for delta in deltas)))
        assert seen[0] == seen[1]
        assert seen[0][0] == "weather"
        assert calls(simulator) == 1

    async def test_at_once_makes_one_origin_call(self, api: Api, simulator: RunningSimulator) -> None:
        streams = await asyncio.gather(*(watch(api) for _ in range(20)), *(ask(api) for _ in range(5)))
        assert calls(simulator) == 1
        assert len({text_of(events) for events in streams[:20] if isinstance(events, list)}) == 1

    async def test_that_failed_at_the_providers_fails_for_all_who_waited(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "status", "status": 400, "count": None, "headers_delay_ms": 300, "operation": "completion"})
        streams = await asyncio.gather(*(watch(api, model="openai/gpt-6-luna") for _ in range(3)))
        assert {events[-1]["__typename"] for events in streams} == {"CompletionFailed"}
        assert calls(simulator) == 1

    async def test_with_an_idempotency_key_is_the_same_completion(self, api: Api) -> None:
        await ask(api)
        first, second = [await watch(api, idempotencyKey="again") for _ in range(2)]
        assert first[-1]["completion"] == second[-1]["completion"]
        assert first[-1]["completion"]["cache"] is not None


class Watcher:
    """One stream that is read event by event, while others run."""

    def __init__(self, api: Api, **changes: object) -> None:
        asked = {"messages": [{"role": "USER", "text": "What is new?"}], "maxOutputTokens": 60, "cache": USE, **changes}
        self._events = api.events(WATCH, ACME, input=asked)
        self.seen: list[Data] = []

    async def until(self, *kinds: str) -> Data:
        """Returns the next event of these kinds."""
        async for event in self._events:
            self.seen.append(event["completionStream"])
            if self.seen[-1]["__typename"] in kinds:
                return self.seen[-1]
        raise AssertionError(f"the stream has ended: {self.seen}")

    async def to_the_end(self) -> Data:
        async for event in self._events:
            self.seen.append(event["completionStream"])
        return self.seen[-1]

    async def leave(self) -> None:
        await self._events.aclose()


SLOW: StepFields = {"token_delay_ms": 40, "count": None, "operation": "completion"}


class TestAStreamThatFollowsAnother:
    async def test_shows_the_answer_while_it_comes(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        leader, joined = Watcher(api), Watcher(api)
        await leader.until("CompletionDelta")
        await joined.until("CompletionDelta")
        late = Watcher(api)
        await late.until("CompletionDelta")
        assert calls(simulator) == 1
        assert simulator.log()[-1].state == "open"
        made = (await leader.to_the_end())["completion"]
        for each in (joined, late):
            given = (await each.to_the_end())["completion"]
            assert text_of(each.seen) == given["text"] == made["text"] == text_of(leader.seen)
            assert [given["cache"]["tier"], given["attempts"], Decimal(given["costUsd"])] == ["MEMORY", [], 0]
            assert Decimal(given["cache"]["savedUsd"]) == Decimal(made["costUsd"]) > 0
        totals = (await api.data(COSTS, filter=EVER))["costs"]["totals"]
        assert (totals["requests"], totals["cacheHits"], Decimal(totals["costUsd"])) == ("3", "2", Decimal(made["costUsd"]))
        assert calls(simulator) == 1

    async def test_breaks_as_that_one_breaks(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post(SLOW | {"fault": "cut", "after_tokens": 20})
        leader, joined = Watcher(api, model="openai/gpt-6-luna"), Watcher(api, model="openai/gpt-6-luna")
        await leader.until("CompletionDelta")
        await joined.until("CompletionDelta")
        ends = [await each.to_the_end() for each in (leader, joined)]
        assert [end["problem"]["code"] for end in ends] == ["PROVIDER_ERROR"] * 2
        assert text_of(joined.seen) == text_of(leader.seen)
        assert calls(simulator) == 1

    async def test_fails_if_the_other_caller_leaves_after_it_has_shown_something(
        self, api: Api, simulator: RunningSimulator
    ) -> None:
        simulator.post(SLOW)
        leader, joined = Watcher(api, onClientLeave="CANCEL"), Watcher(api)
        await leader.until("CompletionDelta")
        await joined.until("CompletionDelta")
        await leader.leave()
        end = await joined.to_the_end()
        assert (end["__typename"], end["problem"]["code"]) == ("CompletionFailed", "PROVIDER_ERROR")
        assert calls(simulator) == 1

    async def test_begins_anew_if_it_may(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        leader, joined = Watcher(api, onClientLeave="CANCEL"), Watcher(api, restart=True)
        await leader.until("CompletionDelta")
        await joined.until("CompletionDelta")
        await leader.leave()
        await joined.until("CompletionRestarted")
        own = len(joined.seen)
        made = (await joined.to_the_end())["completion"]
        assert text_of(joined.seen[own:]) == made["text"]
        assert (made["cache"], len(made["attempts"]), Decimal(made["costUsd"]) > 0) == (None, 1, True)
        assert (await ask(api, maxOutputTokens=60))["cache"] is not None
        assert calls(simulator) == 2

    async def test_makes_the_call_if_the_other_caller_leaves_before_that(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post({"headers_delay_ms": 400, "count": None, "operation": "completion"})
        leader, joined = Watcher(api, onClientLeave="CANCEL"), Watcher(api)
        await leader.until("CompletionStarted")
        waiting = asyncio.create_task(joined.to_the_end())
        async with asyncio.timeout(10):
            while not calls(simulator):  # noqa: ASYNC110 (the condition is another party's state)
                await asyncio.sleep(0.02)
        await leader.leave()
        made = (await waiting)["completion"]
        assert (made["cache"], Decimal(made["costUsd"]) > 0) == (None, True)
        assert calls(simulator) == 2
