"""The cache while its stores and processes die: no call fails but those of a killed process, no answer is older than what was
invalidated, and no prompt is paid for twice at once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest
from redis import Redis

from app.domain.errors import StoreUnavailable
from app.domain.ids import parse_id
from app.embedded.addresses import CACHE_URL, read_address
from app.events.stream_log import StreamLog
from app.redis.clients import RedisClient
from simulator.attempts import Entry
from tests.drills.agents import until_true
from tests.processes import family, folder, frozen, kill_all, named
from tests.redis_servers import RedisServers, free_ports
from tests.servers import RunningServer, start_server
from tests.simulators import RunningSimulator, start_simulator

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.long, pytest.mark.timeout(300)]

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it

WORKERS = 3
AGENTS = 12
PROMPTS = 30
TAGS = 3
QUIET_SECONDS = 4.0
FROZEN_SECONDS = 4.0
HEARD_SECONDS = 5.0
"""By then every process has heard of an invalidation, also while another one leads the events."""
LEASE_SECONDS = 3.0
DEATH_SECONDS = 2.0
"""How long a call that a killed process was answering may still fail."""
RESTART_SECONDS = 3.0
"""How long after its start a process may not yet know what was invalidated; until then it gives nothing."""
SLOW = "[[simulator fault=slow-headers]]"
ASK = """
mutation($input: CompletionInput!) {
  completionCreate(input: $input) {
    __typename
    ... on Completion { id text cache { tier ageSeconds } }
    ... on Problem { code message }
  }
}"""
START = "mutation($input: CompletionInput!) { completionStart(input: $input) { ... on Completion { id } } }"
INVALIDATE = "mutation($input: CacheInvalidateInput!) { cacheInvalidate(input: $input) { __typename } }"
CONFIGURATION = """
[[providers]]
name = "openai"
kind = "openai"
base_url = "{openai}"
api_keys = [{{ env = "SIMULATOR_KEY" }}]

[redis]
url = {{ env = "COORDINATION" }}

[cache.memory]
ttl = "1s"

[cache.local]
ttl = "10s"

[cache.shared]
url = {{ env = "SHARED" }}

[cache.postgres]
min_saved_usd = "0"
"""


@dataclass(frozen=True)
class Answer:
    """One call. Times are of the wall clock. `problem` is empty for an answer; `age` is None if a provider gave it."""

    tokens: int
    asked_at: float
    answered_at: float
    age: float | None
    problem: str = ""
    is_cut_off: bool = False

    @property
    def took(self) -> float:
        return self.answered_at - self.asked_at


@dataclass(frozen=True)
class Span:
    name: str
    begins: float
    ends: float


@dataclass
class Drill:
    server: RunningServer
    simulator: RunningSimulator
    answers: list[Answer] = field(default_factory=list)
    invalidated: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """By tag, when each was asked for and acknowledged."""
    cut_off: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """Those that a killed process was answering: they may hold too."""
    spans: list[Span] = field(default_factory=list)
    is_over: bool = False

    async def post(self, session: aiohttp.ClientSession, query: str, variables: Data) -> Data:
        headers = {"Authorization": f"Bearer {self.server.key}"}
        body = {"query": query, "variables": variables}
        async with session.post(self.server.url, json=body, headers=headers) as response:
            answer: Data = await response.json(content_type=None)
        return answer

    async def ask(self, session: aiohttp.ClientSession, tokens: int, extra: str = "") -> Answer:
        tags = [tag_of(tokens)] if tokens < 10 + PROMPTS else []
        asked = {**prompt(tokens, extra), "cache": {"mode": "USE", "tags": tags}}
        begun = time.time()
        try:
            answer = await self.post(session, ASK, {"input": asked})
        except aiohttp.ClientError as error:
            return self._noted(Answer(tokens, begun, time.time(), None, repr(error), is_cut_off=True))
        found: Data = (answer.get("data") or {}).get("completionCreate") or {}
        problem = "" if found.get("__typename") == "Completion" else str(answer)
        cache = found.get("cache")
        return self._noted(Answer(tokens, begun, time.time(), cache["ageSeconds"] if cache else None, problem))

    def _noted(self, answer: Answer) -> Answer:
        self.answers.append(answer)
        return answer

    async def agent(self, number: int) -> None:
        """Asks as fast as it can: mostly what others ask too, sometimes something new."""
        draw, fresh = random.Random(number), 1000 * (number + 1)
        while not self.is_over:
            async with aiohttp.ClientSession() as session:
                for _ in range(20):
                    tokens = 10 + min(int(draw.expovariate(0.15)), PROMPTS - 1)
                    if draw.random() < 0.05:
                        fresh += 1
                        await self.ask(session, 60, f"new {fresh}")
                    else:
                        await self.ask(session, tokens)

    async def invalidate(self) -> None:
        number = 0
        while not self.is_over:
            await asyncio.sleep(2.0)
            tag = f"tag-{number % TAGS}"
            begun = time.time()
            try:
                async with aiohttp.ClientSession() as session:
                    answer = await self.post(session, INVALIDATE, {"input": {"select": {"tags": [tag]}}})
            except aiohttp.ClientError as error:
                self._noted(Answer(number % TAGS, begun, time.time(), None, repr(error), is_cut_off=True))
                self.cut_off[tag].append((begun, time.time()))
                continue
            assert answer["data"]["cacheInvalidate"]["__typename"] == "CacheInvalidated", answer
            self.invalidated[tag].append((begun, time.time()))
            number += 1

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        begins = time.time()
        yield
        self.spans.append(Span(name, begins, time.time()))

    def slowest(self, span: Span) -> float:
        """The longest call that was asked for in the span, in seconds."""
        return max((answer.took for answer in self.answers if span.begins <= answer.asked_at <= span.ends), default=0.0)


def prompt(tokens: int, extra: str = "") -> Data:
    text = f"Question {tokens} {extra} [[simulator tokens={tokens}]]"
    return {"model": "openai/gpt-5.4-mini", "messages": [{"role": "USER", "text": text}], "maxOutputTokens": 500}


def tag_of(tokens: int) -> str:
    return f"tag-{tokens % TAGS}"


async def until_it_writes(redis: RedisClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await redis.execute(lambda server: server.set("drill", "x"))
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


async def kill_the_primary(drill: Drill, primary: subprocess.Popen[bytes], redis: RedisClient) -> None:
    with drill.span("Sentinels' primary killed"):
        primary.kill()
        await until_it_writes(redis)


async def kill_the_local_valkey(drill: Drill) -> None:
    found = [each for each in named(family(drill.server.process.pid), "valkey-server") if folder(each) == "valkey-cache"]
    assert found
    address = read_address(drill.server.data_dir / CACHE_URL)
    with drill.span("local Valkey killed"), Redis(port=address.port, password=address.password) as raw:
        kill_all(found)
        await until_true(lambda: _answers(raw))


def _answers(raw: Redis) -> bool:
    try:
        return bool(raw.ping())
    except Exception:  # noqa: BLE001 whatever it says, it is no answer
        return False


async def kill_the_holder(drill: Drill, redis: RedisClient) -> None:
    """The process that makes an answer dies while callers in all processes wait for it; another one makes it."""
    slow = {**prompt(61, SLOW), "cache": {"mode": "USE"}}
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(aiohttp.ClientSession()) for _ in range(9)]
        started = await drill.post(sessions[0], START, {"input": slow})
        call = parse_id("cmp", started["data"]["completionStart"]["id"])
        assert call is not None
        owner: list[str] = []
        async with asyncio.timeout(10):
            while not owner:
                owner += filter(None, [await StreamLog(redis).owner(call)])
        waiting = [asyncio.create_task(drill.ask(session, 61, SLOW)) for session in sessions[1:]]
        await asyncio.sleep(0.5)
        with drill.span("lease's holder killed"):
            os.kill(int(owner[0].split()[-2]), signal.SIGKILL)
            answers = await asyncio.gather(*waiting)
        given = [answer for answer in answers if not answer.problem]
        assert given, "all callers of three processes were in the killed one"
        assert sum(answer.age is None for answer in given) == 1, "one of them made the call"
    await until_true(lambda: len(drill.server.servers) == WORKERS)


@asynccontextmanager
async def running(drill: Drill) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(drill.agent(number)) for number in range(AGENTS)]
    tasks.append(asyncio.create_task(drill.invalidate()))
    yield
    drill.is_over = True
    await asyncio.gather(*tasks)


async def quiet(drill: Drill) -> None:
    with drill.span("quiet"):
        await asyncio.sleep(QUIET_SECONDS)


def origin_calls(simulator: RunningSimulator) -> dict[int, list[Entry]]:
    """The calls of each prompt that agents share, in their order."""
    found: dict[int, list[Entry]] = defaultdict(list)
    for entry in simulator.log():
        if entry.operation == "completion" and entry.fault is None and 10 <= entry.output_tokens < 10 + PROMPTS:
            found[entry.output_tokens].append(entry)
    return found


def times(entry: Entry) -> tuple[float, float]:
    begins: datetime = entry.at
    return begins.timestamp(), (begins + timedelta(milliseconds=entry.duration_ms or 0)).timestamp()


def unexplained(drill: Drill) -> list[str]:
    """Origin calls that overlap another one of their prompt, or follow one whose answer was there to be given."""
    away = [span for span in drill.spans if span.name.startswith("Sentinels")]
    killed = [span for span in drill.spans if span.name.startswith("lease")]
    found: list[str] = []
    for tokens, entries in origin_calls(drill.simulator).items():
        for before, after in pairwise(entries):
            (_, ended), (begun, _) = times(before), times(after)
            if any(span.begins - 0.1 <= begun <= span.ends + LEASE_SECONDS for span in away):
                continue
            if any(span.begins - DEATH_SECONDS <= ended and begun <= span.ends + LEASE_SECONDS for span in killed):
                continue
            if any(span.begins <= begun <= span.begins + RESTART_SECONDS for span in killed) and begun >= ended:
                continue
            invalidated = [*drill.invalidated[tag_of(tokens)], *drill.cut_off[tag_of(tokens)]]
            if begun < ended:
                found.append(f"{tokens}: two at once, {ended - begun:.3f} s")
            elif not any(asked <= begun and times(before)[0] <= acknowledged for asked, acknowledged in invalidated):
                found.append(f"{tokens}: again after {begun - ended:.3f} s")
    return found


class TestTheCacheUnderFire:
    async def test_gives_what_it_promises(self, tmp_path: Path) -> None:
        servers = RedisServers.embedded(tmp_path / "redis")
        servers.folder.mkdir()
        (port,) = free_ports(1)
        with (
            start_simulator("--latency-ms", "150") as simulator,
            servers.server(port, "maxmemory 50mb", "maxmemory-policy allkeys-lru") as shared,
        ):
            async with servers.watched(replicas=2) as (url, primary), servers.connected(url) as redis:
                configuration = tmp_path / "greenlang.toml"
                configuration.write_text(CONFIGURATION.format(openai=simulator.openai_url))
                environ = {"SIMULATOR_KEY": "any", "COORDINATION": url, "SHARED": f"redis://127.0.0.1:{port}/0"}
                arguments = ("--workers", str(WORKERS), "--config", str(configuration))
                with start_server(tmp_path / "data", *arguments, environ=environ, log=tmp_path / "log") as server:
                    drill = Drill(server, simulator)
                    async with running(drill):
                        await quiet(drill)
                        await kill_the_primary(drill, primary, redis)
                        await quiet(drill)
                        await kill_the_local_valkey(drill)
                        await quiet(drill)
                        await kill_the_holder(drill, redis)
                        await quiet(drill)
                        with drill.span("shared Redis frozen"), frozen(family(shared.pid)):
                            await asyncio.sleep(FROZEN_SECONDS)
                        await quiet(drill)
            report(drill)
            assert failures(drill) == []
            assert stale(drill) == []
            assert unexplained(drill) == []
            assert sum(answer.age is not None for answer in drill.answers) > len(drill.answers) / 2, "hardly any hit was tried"


def report(drill: Drill) -> None:
    calls = sum(map(len, origin_calls(drill.simulator).values()))
    lines = [f"{len(drill.answers)} calls, {calls} origin calls of {PROMPTS} prompts"]
    lines += [
        f"{span.name}: over after {span.ends - span.begins:.2f} s, slowest call {drill.slowest(span):.2f} s"
        for span in drill.spans
    ]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


def failures(drill: Drill) -> list[Answer]:
    """Those that are not calls which a killed process was answering."""
    killed = [span.begins for span in drill.spans if span.name.startswith("lease")]
    return [
        answer
        for answer in drill.answers
        if answer.problem
        and not (answer.is_cut_off and any(at - answer.took <= answer.asked_at <= at + DEATH_SECONDS for at in killed))
    ]


def stale(drill: Drill) -> list[Answer]:
    """Answers that are older than an invalidation which every process has heard of."""
    return [
        answer
        for answer in drill.answers
        if answer.age is not None
        and any(
            answer.asked_at >= acknowledged + HEARD_SECONDS and answer.answered_at - answer.age < asked
            for asked, acknowledged in drill.invalidated[tag_of(answer.tokens)]
        )
    ]
