"""Whatever a provider answers is an answer or a typed failure, is charged what it may have cost, and leaves the server well.

`FUZZING_SEED` and `FUZZING_CASES` choose other payloads, or more of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.fuzzing_provider import GOOD, FuzzingProvider, start_fuzzing_provider
from tests.integration.payload_mutations import TEXT, Payload
from tests.servers import RunningServer, start_server

pytestmark = pytest.mark.timeout(480)

SEED = int(os.environ.get("FUZZING_SEED", "20261130"))
CASES = int(os.environ.get("FUZZING_CASES", "2000"))
CONCURRENT = 32
CAP = 32_768
MAX_COST = Decimal(CAP) * 2 / 1_000_000
FINAL = {"INVALID_INPUT", "CONTENT_FILTERED", "CONTEXT_TOO_LONG"}
STOP_SECONDS = 15.0
CONFIGURATION = """
[limits]
allowance_capacity = 1000000000
allowance_per_second = 1000000.0
[[providers]]
name = "{name}"
kind = "{kind}"
base_url = "{address}"
api_keys = [{{ env = "FUZZING_KEY" }}]
[providers.limits]
requests_per_minute = 10000000
tokens_per_minute = 1000000000
[providers.breaker]
failures = 1000000
window_min_calls = 1000000
[providers.retry]
first_delay = "5ms"
max_delay = "10ms"
budget_per_second = 1000000.0
[providers.timeouts]
first_token = "10s"
total = "30s"
[[providers.models]]
name = "odd"
price = {{ input_usd = 1, output_usd = 2 }}
[[providers.models]]
name = "good"
price = {{ input_usd = 1, output_usd = 2 }}
"""
WHOLE = """mutation($input: CompletionInput!) { completionCreate(input: $input) { __typename
  ... on Completion { text costUsd attempts { model costUsd usage { totalTokens } } }
  ... on ProvidersFailed { code attempts { model reason costUsd } }
  ... on Problem { message } } }"""
STREAM = """subscription($input: CompletionInput!) { completionStream(input: $input) { __typename
  ... on CompletionDelta { text }
  ... on CompletionRestarted { attempt { id } }
  ... on CompletionFinished { completion { text costUsd attempts { model costUsd usage { totalTokens } } } }
  ... on CompletionFailed { problem { __typename ... on ProvidersFailed { code attempts { model reason costUsd } } } } } }"""
RECORDS = """query($filter: CostFilter!, $after: Cursor) { usageRecords(filter: $filter, first: 100, after: $after) {
  nodes { provider model outcome costUsd usage { totalTokens outputTokens } } pageInfo { hasNextPage endCursor } } }"""


@dataclass(frozen=True)
class Case:
    """Each number stands for one kind of provider, whole or streamed, with another target or without."""

    number: int

    @property
    def provider(self) -> str:
        return "anthropic" if self.number & 1 else "openai"

    @property
    def streamed(self) -> bool:
        return bool(self.number & 2)

    @property
    def restart(self) -> bool:
        return bool(self.number & 8)

    @property
    def model(self) -> str:
        return f"{self.provider}-with-another" if self.number & 4 else f"{self.provider}/odd"


@dataclass
class Ending:
    """How one call ended for its caller. `data` is the last event of a stream."""

    case: Case
    data: dict[str, Any] = field(default_factory=dict)
    shown: str = ""
    restarts: int = 0
    seconds: float = 0.0
    errors: list[Any] = field(default_factory=list)

    @property
    def completion(self) -> dict[str, Any] | None:
        if self.data.get("__typename") == "Completion":
            return self.data
        found: dict[str, Any] | None = self.data.get("completion")
        return found

    @property
    def problem(self) -> dict[str, Any] | None:
        if self.data.get("__typename") == "ProvidersFailed":
            return self.data
        found: dict[str, Any] | None = self.data.get("problem")
        return found

    @property
    def attempts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (self.completion or self.problem or {}).get("attempts", [])
        return found


@dataclass(frozen=True)
class Seen:
    seed: int
    endings: list[Ending]
    records: list[dict[str, Any]]
    sent: Counter[tuple[int, str]]
    log: str
    seconds_to_stop: float
    left_open: int
    provider: FuzzingProvider

    def payload(self, ending: Ending) -> Payload:
        """What the first attempt got."""
        case = ending.case
        return self.provider.payload(case.number, 0, anthropic=case.provider == "anthropic", streamed=case.streamed)

    def describe(self, ending: Ending) -> str:
        return f"seed {self.seed}, {ending.case}: {self.payload(ending)} became {ending}"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("fuzzing")
    logging.getLogger(__name__).warning("FUZZING_SEED=%s", SEED)
    with start_fuzzing_provider(FuzzingProvider(SEED)) as provider:
        yield run(provider, folder)


def run(provider: FuzzingProvider, folder: Path) -> Seen:
    configuration, log = folder / "greenlang.toml", folder / "log"
    configuration.write_text(configured(provider))
    with start_server(folder / "data", "--config", str(configuration), environ={"FUZZING_KEY": "sk-fuzzing"}, log=log) as server:
        endings, records = asyncio.run(ask_all(server))
        left_open, begun = provider.open, time.monotonic()
        server.stop()
        seconds = time.monotonic() - begun
    return Seen(SEED, endings, records, provider.sent, log.read_text(), seconds, left_open, provider)


def configured(provider: FuzzingProvider) -> str:
    openai = CONFIGURATION.format(name="openai", kind="openai-compatible", address=f"{provider.address}/v1")
    anthropic = CONFIGURATION.format(name="anthropic", kind="anthropic", address=provider.address)
    routes = "".join(
        f'[[routes]]\nname = "{one}-with-another"\ntargets = ["{one}/odd", "{other}/{GOOD}"]\n'
        for one, other in (("openai", "anthropic"), ("anthropic", "openai"))
    )
    return openai + anthropic.partition("[[providers]]")[1] + anthropic.partition("[[providers]]")[2] + routes


async def ask_all(server: RunningServer) -> tuple[list[Ending], list[dict[str, Any]]]:
    room = asyncio.Semaphore(CONCURRENT)
    headers = {"Authorization": f"Bearer {server.key}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=90)) as session:

        async def one(case: Case) -> Ending:
            async with room:
                begun = time.monotonic()
                ending = await (stream if case.streamed else whole)(session, server.url, case)
                ending.seconds = time.monotonic() - begun
                return ending

        endings = await asyncio.gather(*(one(Case(number)) for number in range(CASES)))
        return endings, await read_records(session, server.url)


def variables(case: Case) -> dict[str, Any]:
    messages = [{"role": "USER", "text": f"Case {case.number}"}]
    return {"input": {"model": case.model, "messages": messages, "maxOutputTokens": CAP, "restart": case.restart}}


async def whole(session: aiohttp.ClientSession, url: str, case: Case) -> Ending:
    answer = await execute(session, url, WHOLE, variables(case))
    return Ending(case, (answer.get("data") or {}).get("completionCreate") or {}, errors=answer.get("errors", []))


async def stream(session: aiohttp.ClientSession, url: str, case: Case) -> Ending:
    ending = Ending(case)
    body = {"query": STREAM, "variables": variables(case)}
    async with session.post(url, json=body, headers={"Accept": "text/event-stream"}) as response:
        async for line in response.content:
            if not line.startswith(b"data:") or not line[5:].strip():
                continue
            event = json.loads(line[5:])
            ending.errors += event.get("errors", [])
            ending.data = (event.get("data") or {}).get("completionStream") or {}
            if ending.data.get("__typename") == "CompletionRestarted":
                ending.shown, ending.restarts = "", ending.restarts + 1
            ending.shown += ending.data.get("text", "") if ending.data.get("__typename") == "CompletionDelta" else ""
    return ending


async def execute(session: aiohttp.ClientSession, url: str, query: str, given: dict[str, Any]) -> dict[str, Any]:
    async with session.post(url, json={"query": query, "variables": given}) as response:
        answer: dict[str, Any] = await response.json(content_type=None)
    return answer


async def read_records(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    given: dict[str, Any] = {"filter": {"period": {"from": "2026-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}}, "after": None}
    while True:
        answer = await execute(session, url, RECORDS, given)
        assert "errors" not in answer, answer
        page = answer["data"]["usageRecords"]
        found += page["nodes"]
        if not page["pageInfo"]["hasNextPage"]:
            return found
        given["after"] = page["pageInfo"]["endCursor"]


class TestAFuzzedProvider:
    def test_gives_every_call_an_answer_or_a_typed_failure(self, seen: Seen) -> None:
        assert len(seen.endings) == CASES
        for ending in seen.endings:
            assert not ending.errors, seen.describe(ending)
            assert (ending.completion is None) != (ending.problem is None), seen.describe(ending)
            assert ending.problem is None or ending.problem.get("code"), seen.describe(ending)

    def test_is_left_for_another_target(self, seen: Seen) -> None:
        """Unless a part of the answer was shown and the caller wants no other, or the provider says that the call itself is
        wrong."""
        for ending in seen.endings:
            was_shown = ending.shown and not ending.case.restart
            if ending.problem is None or was_shown or "with-another" not in ending.case.model:
                continue
            assert ending.problem["code"] in FINAL, seen.describe(ending)

    def test_never_makes_the_call_itself_wrong_by_a_field(self, seen: Seen) -> None:
        for ending in seen.endings:
            if seen.payload(ending).is_field and ending.problem is not None:
                assert ending.problem["code"] not in FINAL, seen.describe(ending)

    def test_shows_the_text_that_it_answers(self, seen: Seen) -> None:
        answered = [ending for ending in seen.endings if ending.completion is not None]
        for ending in answered:
            assert ending.completion is not None
            if ending.case.streamed and ending.completion["text"] is not None:
                assert ending.shown == ending.completion["text"], seen.describe(ending)
        assert sum(ending.completion["text"] == TEXT for ending in answered if ending.completion) > CASES // 2

    def test_begins_anew_only_for_those_who_ask(self, seen: Seen) -> None:
        assert not any(ending.restarts for ending in seen.endings if not ending.case.restart)
        assert CASES < 200 or any(ending.restarts for ending in seen.endings)

    def test_costs_something_for_an_answer_and_never_the_cap(self, seen: Seen) -> None:
        for ending in seen.endings:
            if ending.completion is not None:
                assert Decimal(ending.completion["costUsd"]) > 0, seen.describe(ending)
            for attempt in ending.attempts:
                assert Decimal(attempt["costUsd"] or 0) < MAX_COST, seen.describe(ending)
        assert all(record["usage"]["outputTokens"] < CAP for record in seen.records)

    def test_costs_something_whenever_it_billed_and_is_not_asked_again(self, seen: Seen) -> None:
        found = [(ending, payload) for ending in seen.endings if (payload := seen.payload(ending)).is_billed]
        assert len(found) > CASES // 50
        for ending, payload in found:
            assert Decimal(ending.attempts[0]["costUsd"] or 0) > 0, seen.describe(ending)
            assert payload.cut or seen.sent[ending.case.number, "odd"] == 1, seen.describe(ending)

    def test_has_every_attempt_in_the_ledger(self, seen: Seen) -> None:
        sent = Counter(model for (_, model), times in seen.sent.items() for _ in range(times))
        assert Counter(record["model"] for record in seen.records) == sent
        assert sum(len(ending.attempts) for ending in seen.endings) == sent.total()

    def test_leaves_no_traceback_and_nothing_unforeseen_in_the_log(self, seen: Seen) -> None:
        assert "Traceback" not in seen.log
        assert "unforeseen" not in seen.log
        assert "never retrieved" not in seen.log
        assert "was destroyed but it is pending" not in seen.log

    def test_leaves_no_task_that_holds_up_the_end(self, seen: Seen) -> None:
        assert seen.left_open == 0
        assert seen.seconds_to_stop < STOP_SECONDS
