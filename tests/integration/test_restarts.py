"""Every break of a stream after its first word, at both providers of one real server: with `restart` it ends in one whole answer
while any target is well, without it as failed with its partial. All cases run at once, each with models of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from types import MappingProxyType
from typing import Any, TypeAlias

import aiohttp
import msgspec
import pytest

from tests.servers import RunningServer, start_server
from tests.simulators import RunningSimulator, StepFields, start_simulator

pytestmark = pytest.mark.timeout(300)

Event: TypeAlias = "dict[str, Any]"  # JSON as a client sees it

TOKENS = 24
CONCURRENT = 24
BREAKS: Mapping[str, str] = MappingProxyType(
    {"cut": "CUT", "truncate": "CUT", "stall": "STALLED", "malformed": "MALFORMED", "stream_error": "PROVIDER_ERROR"}
)
PLACES: Mapping[str, int] = MappingProxyType({"first": 1, "second": 2, "last": TOKENS})
FAMILIES: Mapping[str, str] = MappingProxyType({"anthropic": "claude-haiku-5-5", "openai": "gpt-5.4-mini"})
EVENT = """
  __typename
  ... on StreamEvent { cursor }
  ... on CompletionStarted { completionId }
  ... on CompletionDelta { text }
  ... on CompletionRestarted { reason attempt { id provider model } }
  ... on CompletionFinished { completion { id text costUsd usage { outputTokens } attempts { id provider costUsd } } }
  ... on CompletionFailed { problem { ... on Problem { code } } partial { id text costUsd attempts { id provider costUsd } } }
"""
STREAM = f"subscription($input: CompletionInput!) {{ completionStream(input: $input) {{ {EVENT} }} }}"
WATCH = f"subscription($id: ID!) {{ completionEvents(id: $id) {{ {EVENT} }} }}"
RECORDS = """query($after: Cursor) { usageRecords(
  filter: {period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}, first: 100, after: $after
) { nodes { completionId costUsd } pageInfo { hasNextPage endCursor } } }"""
BUDGET = """mutation { budgetCreate(input: {name: "all", scope: {}, limitUsd: "100"}) { ... on Budget { id } } }"""
SPENT = "{ budgets { nodes { heldUsd spentUsd } } }"


@dataclass(frozen=True)
class Case:
    """`alone`: the only target breaks once. Else it breaks every time, and the other provider's target is well."""

    kind: str
    place: str
    provider: str
    alone: bool
    restart: bool

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.place}-{'alone' if self.alone else 'fallback'}-{'anew' if self.restart else 'once'}"

    @property
    def model(self) -> str:
        return f"{FAMILIES[self.provider]}-{self.name}"

    @property
    def other(self) -> str:
        return "openai" if self.provider == "anthropic" else "anthropic"

    @property
    def route(self) -> str:
        return f"{self.provider}-{self.name}"

    @property
    def targets(self) -> list[str]:
        own = f"{self.provider}/{self.model}"
        return [own] if self.alone else [own, f"{self.other}/{FAMILIES[self.other]}"]

    @property
    def step(self) -> StepFields:
        count = 1 if self.alone else None
        return {"fault": self.kind, "after_tokens": PLACES[self.place], "model": self.model, "count": count, **BREAKING}


ANSWER: StepFields = {"token_delay_ms": 3, "answer": {"tokens": TOKENS}}
BREAKING: StepFields = {**ANSWER, "fault_delay_ms": 300}
CASES = [Case(*each) for each in product(BREAKS, PLACES, FAMILIES, (True, False), (True, False))]
PROVIDER = """
[[providers]]
name = "{name}"
kind = "{name}"
base_url = "{address}"
api_keys = [{{ env = "SIMULATED_KEY" }}]
limits = {{ requests_per_minute = 1000000, tokens_per_minute = 1000000000 }}
retry = {{ first_delay = "20ms", max_delay = "50ms", budget_per_second = 1000.0 }}
timeouts = {{ first_token = "20s", idle = "2s", total = "60s" }}
"""


@dataclass(frozen=True)
class Seen:
    """What the caller of each case saw, live and again, and what the ledger has."""

    live: Mapping[Case, list[Event]]
    again: Mapping[Case, list[Event]]
    records: list[dict[str, Any]]
    held_usd: str
    spent_usd: str


def configuration(simulator: RunningSimulator) -> str:
    addresses = {"anthropic": simulator.anthropic_url, "openai": simulator.openai_url}
    texts = ["[limits]\nallowance_capacity = 1000000000\nallowance_per_second = 1000000.0\n"]
    for name, family in FAMILIES.items():
        models = [family, *(case.model for case in CASES if case.provider == name)]
        texts.append(PROVIDER.format(name=name, address=addresses[name]))
        texts += [f'[[providers.models]]\nname = "{model}"\nprice = {{ input_usd = 3, output_usd = 15 }}\n' for model in models]
    texts += [f'[[routes]]\nname = "{case.route}"\ntargets = {msgspec.json.encode(case.targets).decode()}\n' for case in CASES]
    return "".join(texts)


async def post(session: aiohttp.ClientSession, url: str, query: str, variables: Event | None = None) -> Event:
    async with session.post(url, json={"query": query, "variables": variables or {}}) as response:
        answer: Event = await response.json()
    assert "errors" not in answer, answer
    data: Event = answer["data"]
    return data


async def subscribe(session: aiohttp.ClientSession, url: str, query: str, variables: Event) -> list[Event]:
    """By server-sent events, up to the end, without heartbeats."""
    events: list[Event] = []
    body, headers = {"query": query, "variables": variables}, {"Accept": "text/event-stream"}
    async with session.post(url, json=body, headers=headers) as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                payload = msgspec.json.decode(line[6:])
                assert "errors" not in payload, payload
                [event] = payload["data"].values()
                events += [event] if event["__typename"] != "Heartbeat" else []
    return events


async def records(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = (await post(session, url, RECORDS, {"after": after}))["usageRecords"]
        found += page["nodes"]
        if not page["pageInfo"]["hasNextPage"]:
            return found
        after = page["pageInfo"]["endCursor"]


async def stream_all(server: RunningServer) -> Seen:
    room = asyncio.Semaphore(CONCURRENT)
    live, again = dict[Case, list[Event]](), dict[Case, list[Event]]()
    headers = {"Authorization": f"Bearer {server.key}"}
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:
        await post(session, server.url, BUDGET)

        async def one(case: Case) -> None:
            messages = [{"role": "USER", "text": f"What is new? {case.name}"}]
            asked = {"model": case.route, "messages": messages, "maxOutputTokens": 100, "restart": case.restart}
            async with room:
                live[case] = await subscribe(session, server.url, STREAM, {"input": asked})
                again[case] = await subscribe(session, server.url, WATCH, {"id": live[case][0]["completionId"]})

        await asyncio.gather(*map(one, CASES))
        found = await records(session, server.url)
        [budget] = (await post(session, server.url, SPENT))["budgets"]["nodes"]
    return Seen(live, again, found, budget["heldUsd"], budget["spentUsd"])


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("restarts")
    with start_simulator() as simulator:
        simulator.post(*(case.step for case in CASES), {**ANSWER, "operation": "completion", "count": None})
        file = folder / "greenlang.toml"
        file.write_text(configuration(simulator))
        environ = {"SIMULATED_KEY": "sk-simulated"}
        with start_server(folder / "data", "--workers", "2", "--config", str(file), environ=environ) as server:
            yield asyncio.run(stream_all(server))


def text_of(events: list[Event]) -> str:
    return "".join(event["text"] for event in events if event["__typename"] == "CompletionDelta")


def after_the_last_restart(events: list[Event]) -> list[Event]:
    places = [place for place, event in enumerate(events) if event["__typename"] == "CompletionRestarted"]
    return events[places[-1] + 1 :] if places else events


def attempts_of(events: list[Event]) -> list[Event]:
    last = events[-1]
    found: list[Event] = (last.get("completion") or last["partial"])["attempts"]
    return found


def cost_of(events: list[Event]) -> Decimal:
    return Decimal((events[-1].get("completion") or events[-1]["partial"])["costUsd"])


class TestABreakAfterTheFirstWord:
    @pytest.mark.parametrize("case", [case for case in CASES if case.restart], ids=lambda case: case.route)
    def test_ends_in_one_whole_answer_for_who_wants_it(self, seen: Seen, case: Case) -> None:
        events = seen.live[case]
        assert events[-1]["__typename"] == "CompletionFinished", events
        completion = events[-1]["completion"]
        assert text_of(after_the_last_restart(events)) == completion["text"]
        assert completion["attempts"][-1]["provider"] == (case.provider if case.alone else case.other)
        restarts = [event for event in events if event["__typename"] == "CompletionRestarted"]
        assert [event["attempt"]["id"] for event in restarts] == [attempt["id"] for attempt in completion["attempts"][:-1]]
        assert {event["reason"] for event in restarts} == {BREAKS[case.kind]}
        assert text_of(events) != completion["text"]

    @pytest.mark.parametrize("case", [case for case in CASES if not case.restart], ids=lambda case: case.route)
    def test_ends_as_failed_with_its_partial_for_others(self, seen: Seen, case: Case) -> None:
        events = seen.live[case]
        assert events[-1]["__typename"] == "CompletionFailed", events
        assert events[-1]["partial"]["text"] == text_of(events) != ""
        assert [attempt["provider"] for attempt in attempts_of(events)] == [case.provider]
        assert "CompletionRestarted" not in {event["__typename"] for event in events}

    def test_is_shown_again_as_it_was(self, seen: Seen) -> None:
        assert {case: seen.again[case] for case in CASES} == dict(seen.live)

    def test_is_charged_attempt_by_attempt_and_nothing_stays_held(self, seen: Seen) -> None:
        costs = {(events[-1].get("completion") or events[-1]["partial"])["id"]: cost_of(events) for events in seen.live.values()}
        charged = dict.fromkeys(costs, Decimal(0))
        for record in seen.records:
            charged[record["completionId"]] += Decimal(record["costUsd"])
        assert charged == costs
        made = [attempt for events in seen.live.values() for attempt in attempts_of(events)]
        assert len(seen.records) == len(made)
        assert all(Decimal(attempt["costUsd"]) > 0 for attempt in made)
        assert (seen.held_usd, Decimal(seen.spent_usd)) == ("0", sum(costs.values()))
