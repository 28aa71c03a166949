"""2,000 streams at once over WebSocket from one server process, while a provider fails a fifth of its calls.

Every stream has to end with exactly one last event, none may end as finished without its whole answer, and afterwards nothing is
left: no task, no hold, no connection to a provider, and the memory of before; else this exits with 1.

Half of the faults are a 503, half a cut after 20 tokens. Breakers are as they come: where five of these meet in a row the failing
provider is left for a minute, and what starts then goes to the other one, so that it sees fewer than a fifth fail.

It prints how late tokens are. `since the log` is from a delta's place in the log until a client has it. `on the whole` is against
the pace of ten a second: how much later than the best token of the same stream each one came, so what the provider, the server
and the client were late for are all in it. The simulator alone, read by the same client without a server between, is there to
compare. `python -m benchmarks.streams`
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import quantiles
from typing import Any, TypeAlias, cast

import aiohttp
import msgspec
import psutil

from tests.servers import Client, RunningServer, start_server
from tests.simulators import RunningSimulator, StepFields, start_simulator

PER_SOCKET = 50
MODEL = "claude-haiku-5-5"
TOKENS_PER_SECOND = 10
RAMP_SECONDS = 2.0
WARM_UPS = 1
CHARS_PER_TOKEN = 4
"""Of the simulator."""
MAX_ROUND_SECONDS = 60.0
IDLE_SECONDS, MAX_IDLE_SECONDS = 6.0, 30.0
MEMORY_ALLOWED = 1.10
ENDS = {"CompletionFinished", "CompletionFailed", "CompletionCancelled"}
STREAM = """
subscription($input: CompletionInput!) {
  completionStream(input: $input) {
    __typename
    ... on StreamEvent { at }
    ... on CompletionDelta { text }
    ... on CompletionFinished { completion { text } }
    ... on CompletionFailed { problem { ... on Problem { message } } }
  }
}"""
BUDGET = """
mutation {
  budgetCreate(input: {name: "all", scope: {}, limitUsd: "1000000"}) { ... on Budget { id } ... on Problem { message } }
}"""
HELD = "{ budgets(first: 1) { nodes { heldUsd spentUsd } } }"
CONFIGURATION = """
[limits]
sockets_per_key = 1000
allowance_capacity = 10000000
allowance_per_second = 1000000.0

[server]
max_in_flight = 10000
"""
PROVIDER = """
[[providers]]
name = "{kind}"
kind = "{kind}"
base_url = "{url}"
api_keys = [{{ env = "STREAMS_KEY" }}]
models = ["{model}"]
pool_size = 3000
[providers.limits]
requests_per_minute = 1000000
tokens_per_minute = 1000000000
"""

Event: TypeAlias = "dict[str, Any]"  # JSON as a client sees it


@dataclass
class Round:
    ends: Counter[str] = field(default_factory=Counter)
    ends_of: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    deltas: int = 0
    delays: list[float] = field(default_factory=list)
    """Seconds from a delta's entry in the log until a client has it."""
    paces: list[Pace] = field(default_factory=list)
    seconds: float = 0.0

    def is_right(self, streams: int) -> bool:
        """One last event each, and nothing cut that was shown as whole."""
        return len(self.ends_of) == streams and set(self.ends_of.values()) == {1} and not self.truncated


@dataclass
class Pace:
    """When the tokens of one stream came: for each delta the time and how many there were by then."""

    came: list[tuple[float, int]] = field(default_factory=list)

    def note(self, text: str) -> None:
        before = self.came[-1][1] if self.came else 0
        self.came.append((time.monotonic(), before + -(-len(text) // CHARS_PER_TOKEN)))

    def lateness(self) -> list[float]:
        """Of each token, in seconds."""
        if not self.came:
            return []
        begun = min(at - (count - 1) / TOKENS_PER_SECOND for at, count in self.came)
        late, reported = [], 0
        for at, count in self.came:
            late += [at - begun - number / TOKENS_PER_SECOND for number in range(reported, count)]
            reported = count
        return late


async def stream_many(server: RunningServer, streams: int, tokens: int) -> Round:
    seen = Round()
    begun = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        numbers = [range(first, min(first + PER_SOCKET, streams)) for first in range(0, streams, PER_SOCKET)]
        async with asyncio.timeout(MAX_ROUND_SECONDS):
            await asyncio.gather(*(_socket(server, session, each, tokens, seen) for each in numbers))
    seen.seconds = time.monotonic() - begun
    return seen


async def _socket(
    server: RunningServer, session: aiohttp.ClientSession, numbers: Sequence[int], tokens: int, seen: Round
) -> None:
    texts: dict[str, list[str]] = {str(number): [] for number in numbers}
    paces = {stream: Pace() for stream in texts}
    seen.paces += paces.values()
    headers = {"Authorization": f"Bearer {server.key}"}
    open_streams = len(numbers)
    starting = None
    async with session.ws_connect(server.url, protocols=["graphql-transport-ws"], headers=headers) as socket:
        await socket.send_json({"type": "connection_init"})
        async for message in socket:
            frame: Event = msgspec.json.decode(message.data)
            kind = frame["type"]
            if kind == "connection_ack":
                starting = asyncio.create_task(_start(socket, numbers, tokens))
            elif kind == "ping":
                await socket.send_json({"type": "pong"})
            elif kind == "next":
                _note(seen, frame["id"], frame["payload"], texts[frame["id"]], paces[frame["id"]])
            elif kind == "error":
                raise SystemExit(f"refused: {frame}")
            elif kind == "complete":
                open_streams -= 1
                if not open_streams:
                    break
    if starting is not None:
        await starting


async def _start(socket: aiohttp.ClientWebSocketResponse, numbers: Sequence[int], tokens: int) -> None:
    for number in numbers:
        await socket.send_json({"id": str(number), "type": "subscribe", "payload": _payload(number, tokens)})
        await asyncio.sleep(RAMP_SECONDS / len(numbers))


def _payload(number: int, tokens: int) -> Event:
    text = f"Question {number} [[simulator tokens={tokens}]]"
    return {
        "query": STREAM,
        "variables": {"input": {"messages": [{"role": "USER", "text": text}], "maxOutputTokens": 2 * tokens}},
    }


def _note(seen: Round, stream: str, payload: Event, texts: list[str], pace: Pace) -> None:
    if "errors" in payload:
        raise SystemExit(f"failed: {payload}")
    event = payload["data"]["completionStream"]
    kind = event["__typename"]
    if kind == "CompletionDelta":
        seen.deltas += 1
        seen.delays.append(time.time() - datetime.fromisoformat(event["at"]).timestamp())
        texts.append(event["text"])
        pace.note(event["text"])
    elif kind in ENDS:
        seen.ends[kind] += 1
        seen.ends_of[int(stream)] += 1
        if kind == "CompletionFailed":
            seen.failures[event["problem"]["message"]] += 1
        if kind == "CompletionFinished":
            completion = event["completion"]
            seen.truncated += int("".join(texts) != completion["text"])


async def read_simulator(simulator: RunningSimulator, streams: int, tokens: int) -> Round:
    """The same from the provider itself, without a server between."""
    seen = Round()
    timeout = aiohttp.ClientTimeout(total=MAX_ROUND_SECONDS)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        reading = []
        for number in range(streams):
            seen.paces.append(Pace())
            reading.append(asyncio.create_task(_read_one(session, simulator, seen.paces[-1], number, tokens)))
            await asyncio.sleep(RAMP_SECONDS / streams)
        await asyncio.gather(*reading)
    return seen


async def _read_one(session: aiohttp.ClientSession, simulator: RunningSimulator, pace: Pace, number: int, tokens: int) -> None:
    message = {"role": "user", "content": f"Question {number} [[simulator tokens={tokens}]]"}
    body = {"model": MODEL, "messages": [message], "max_tokens": 2 * tokens, "stream": True}
    headers = {"x-api-key": "sk-simulated", "anthropic-version": "2023-06-01"}
    async with session.post(f"{simulator.anthropic_url}/v1/messages", json=body, headers=headers) as answer:
        async for line in answer.content:
            if line.startswith(b'data: {"type":"content_block_delta"'):
                pace.note(msgspec.json.decode(line[6:])["delta"]["text"])


def upstream_connections(server: RunningServer, simulator: RunningSimulator) -> int:
    port = int(simulator.address.rpartition(":")[2])
    remotes = (each.raddr for process in server.servers for each in process.net_connections() if each.status == "ESTABLISHED")
    return [getattr(remote, "port", None) for remote in remotes].count(port)


def resident(server: RunningServer) -> int:
    return sum(process.memory_info().rss for process in server.servers)


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def tasks(server: RunningServer) -> int:
    """Of the server's event loop."""
    headers = {"Authorization": f"Bearer {server.key}"}
    async with aiohttp.ClientSession() as session, session.get(f"{server.address}/metrics", headers=headers) as answer:
        (line,) = (line for line in (await answer.text()).splitlines() if line.startswith("greenlang_tasks "))
    return int(float(line.rpartition(" ")[2]))


def _quantiles(seconds: list[float]) -> str:
    found = quantiles(seconds, n=100)
    return ", ".join(f"p{share} {found[share - 1] * 1000:.0f} ms" for share in (50, 95, 99))


@dataclass(frozen=True)
class Left:
    """What is there that was not before: memory as a factor."""

    memory: float
    tasks: int
    connections: int
    held_usd: float

    @property
    def is_nothing(self) -> bool:
        return self.memory <= MEMORY_ALLOWED and self.tasks <= 0 and not self.connections and not self.held_usd


@dataclass(frozen=True)
class Baseline:
    """Of a server that has warmed up."""

    memory: int
    tasks: int

    @classmethod
    async def of(cls, client: Client, server: RunningServer, simulator: RunningSimulator) -> Baseline:
        await asyncio.sleep(IDLE_SECONDS)
        await until_nothing(cls(resident(server), await tasks(server)), client, server, simulator)
        return cls(resident(server), await tasks(server))


async def until_nothing(before: Baseline, client: Client, server: RunningServer, simulator: RunningSimulator) -> Left:
    """What is left once nothing is, or at the latest after a while: kept connections and probes end by themselves."""
    deadline = time.monotonic() + MAX_IDLE_SECONDS
    while True:
        budgets = cast(Event, (await client.execute(HELD))["budgets"])["nodes"]
        left = Left(
            resident(server) / before.memory,
            await tasks(server) - before.tasks,
            upstream_connections(server, simulator),
            sum(float(node["heldUsd"]) for node in budgets),
        )
        if left.is_nothing or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.5)


async def measure(server: RunningServer, simulator: RunningSimulator, streams: int, tokens_each: int) -> bool:
    """Whether all is as it has to be; prints what was seen."""
    assert server.key is not None
    async with aiohttp.ClientSession() as session:
        client = Client(session, server, server.key)
        await client.execute(BUDGET)
        for _ in range(WARM_UPS):
            warm = await stream_many(server, streams, tokens_each)
        before = await Baseline.of(client, server, simulator)
        print(
            f"last warm-up: {dict(warm.ends)} in {warm.seconds:.1f} s; then {before.memory / 2**20:.0f} MiB, {before.tasks} tasks"
        )
        watched = {"server": server.servers[0], "simulator": psutil.Process(simulator.pid), "client": psutil.Process()}
        used = {name: -cpu_seconds(process) for name, process in watched.items()}
        seen = await stream_many(server, streams, tokens_each)
        used = {name: used[name] + cpu_seconds(process) for name, process in watched.items()}
        await asyncio.sleep(IDLE_SECONDS)
        left = await until_nothing(before, client, server, simulator)
    faults = Counter(f"{entry.provider} {entry.fault or 'good'}" for entry in await asyncio.to_thread(simulator.log))
    print(f"the providers saw: {dict(faults)}")
    report(seen, streams, used)
    print(f"left: {left}")
    return seen.is_right(streams) and left.is_nothing


def report(seen: Round, streams: int, used: Mapping[str, float]) -> None:
    late = [[*pace.lateness()] for pace in seen.paces]
    came = sum(map(len, late))
    if not came:
        return
    print(f"{streams} streams in {seen.seconds:.1f} s: {dict(seen.ends)}, {seen.truncated} truncated; {dict(seen.failures)}")
    print(
        f"{came} tokens in {seen.deltas} deltas: {came / seen.seconds:.0f} tokens/s and {seen.deltas / seen.seconds:.0f} deltas/s"
    )
    print(f"CPU: {', '.join(f'{name} {seconds:.1f} s' for name, seconds in used.items())}")
    server = used["server"] * 1_000_000
    print(
        f"server: {server / streams / 1000:.1f} ms a stream, {server / came:.0f} µs a token, {server / seen.deltas:.0f} a delta"
    )
    print(f"tokens late since the log: {_quantiles(seen.delays)}")
    print(f"tokens late on the whole: {_quantiles([one for each in late for one in each])}")


@contextmanager
def started(folder: Path) -> Iterator[tuple[RunningServer, RunningSimulator]]:
    """A server whose first provider fails a fifth of its calls."""
    os.environ["STREAMS_KEY"] = "sk-simulated"
    with start_simulator("--tokens-per-second", str(TOKENS_PER_SECOND)) as simulator:
        faults: StepFields = {"provider": "openai", "operation": "completion", "count": None, "share": 0.1}
        simulator.post({**faults, "fault": "status", "status": 503}, {**faults, "fault": "cut", "after_tokens": 20})
        config = folder / "greenlang.toml"
        config.write_text(
            CONFIGURATION
            + PROVIDER.format(kind="openai", url=simulator.openai_url, model="gpt-5.4-mini")
            + PROVIDER.format(kind="anthropic", url=simulator.anthropic_url, model=MODEL)
        )
        with start_server(folder / "data", "--config", str(config)) as server:
            yield server, simulator


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, started(Path(name)) as (server, simulator):
        good = asyncio.run(measure(server, simulator, options.streams, options.tokens))
        alone = asyncio.run(read_simulator(simulator, options.streams, options.tokens))
        print(f"the simulator alone: {_quantiles([one for pace in alone.paces for one in pace.lateness()])}")
    print("good" if good else "NOT good")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
