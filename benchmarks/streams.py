"""2,000 streams at once over WebSocket from one server process, while a provider fails a fifth of its calls.

Every stream has to end with exactly one last event, none may end as finished without its whole answer, and afterwards nothing is
left: no hold, no connection to a provider, and the memory of before. Prints how late deltas are. `python -m benchmarks.streams`
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import quantiles
from typing import Any, TypeAlias, cast

import aiohttp
import msgspec

from tests.servers import Client, RunningServer, start_server
from tests.simulators import RunningSimulator, StepFields, start_simulator

PER_SOCKET = 50
TOKENS_PER_SECOND = 10
RAMP_SECONDS = 8.0
"""Streams begin one after the other, as they do in life, and all of them run together for a while after."""
LONGEST_ROUND_SECONDS = 60.0
IDLE_SECONDS = 6.0
MEMORY_ALLOWED = 1.10
ENDS = {"CompletionFinished", "CompletionFailed", "CompletionCancelled"}
STREAM = """
subscription($input: CompletionInput!) {
  completionStream(input: $input) {
    __typename
    ... on StreamEvent { at }
    ... on CompletionDelta { text }
    ... on CompletionFinished { completion { text usage { outputTokens } } }
    ... on CompletionFailed { problem { ... on Problem { code } } }
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
[providers.breaker]
failures = 1000000
window_min_calls = 1000000
[providers.limits]
requests_per_minute = 1000000
tokens_per_minute = 1000000000
"""

Event: TypeAlias = "dict[str, Any]"  # JSON as a client sees it


@dataclass
class Round:
    ends: Counter[str] = field(default_factory=Counter)
    ends_of: Counter[int] = field(default_factory=Counter)
    truncated: int = 0
    deltas: int = 0
    delays: list[float] = field(default_factory=list)
    """Seconds from a delta's entry in the log until a client has it."""
    tokens: int = 0
    seconds: float = 0.0


async def stream_many(server: RunningServer, streams: int, tokens: int) -> Round:
    seen = Round()
    begun = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        numbers = [range(first, min(first + PER_SOCKET, streams)) for first in range(0, streams, PER_SOCKET)]
        async with asyncio.timeout(LONGEST_ROUND_SECONDS):
            await asyncio.gather(*(_socket(server, session, each, tokens, seen) for each in numbers))
    seen.seconds = time.monotonic() - begun
    return seen


async def _socket(
    server: RunningServer, session: aiohttp.ClientSession, numbers: Sequence[int], tokens: int, seen: Round
) -> None:
    texts: dict[str, list[str]] = {str(number): [] for number in numbers}
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
                _note(seen, frame["id"], frame["payload"], texts[frame["id"]])
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


def _note(seen: Round, stream: str, payload: Event, texts: list[str]) -> None:
    if "errors" in payload:
        raise SystemExit(f"failed: {payload}")
    event = payload["data"]["completionStream"]
    kind = event["__typename"]
    if kind == "CompletionDelta":
        seen.deltas += 1
        seen.delays.append(time.time() - datetime.fromisoformat(event["at"]).timestamp())
        texts.append(event["text"])
    elif kind in ENDS:
        seen.ends[kind] += 1
        seen.ends_of[int(stream)] += 1
        if kind == "CompletionFinished":
            completion = event["completion"]
            seen.tokens += int(completion["usage"]["outputTokens"])
            seen.truncated += int("".join(texts) != completion["text"])


def upstream_connections(server: RunningServer, simulator: RunningSimulator) -> int:
    port = int(simulator.address.rpartition(":")[2])
    remotes = (each.raddr for process in server.servers for each in process.net_connections() if each.status == "ESTABLISHED")
    return [getattr(remote, "port", None) for remote in remotes].count(port)


def resident(server: RunningServer) -> int:
    return sum(process.memory_info().rss for process in server.servers)


async def measure(server: RunningServer, simulator: RunningSimulator, streams: int, tokens: int) -> bool:
    assert server.key is not None
    async with aiohttp.ClientSession() as session:
        client = Client(session, server, server.key)
        await client.execute(BUDGET)
        warm = await stream_many(server, streams, tokens)
        await asyncio.sleep(IDLE_SECONDS)
        before = resident(server)
        print(f"warm-up: {dict(warm.ends)} in {warm.seconds:.1f} s, {before / 2**20:.0f} MiB after it")
        cpu = sum(process.cpu_times().user + process.cpu_times().system for process in server.servers)
        seen = await stream_many(server, streams, tokens)
        cpu = sum(process.cpu_times().user + process.cpu_times().system for process in server.servers) - cpu
        await asyncio.sleep(IDLE_SECONDS)
        held = cast(Event, (await client.execute(HELD))["budgets"])
    faults = Counter(f"{entry.provider} {entry.fault or 'good'}" for entry in await asyncio.to_thread(simulator.log))
    print(f"the providers saw: {dict(faults)}")
    after, connections = resident(server), upstream_connections(server, simulator)
    delays = quantiles(seen.delays, n=100)
    print(f"{streams} streams of {tokens} tokens in {seen.seconds:.1f} s: {dict(seen.ends)}, {seen.truncated} truncated")
    print(
        f"deltas: {seen.deltas}, {seen.tokens / seen.seconds:.0f} finished tokens/s, {cpu / streams * 1000:.1f} ms CPU a stream"
    )
    print(f"delta delay: p50 {delays[49] * 1000:.0f} ms, p95 {delays[94] * 1000:.0f} ms, p99 {delays[98] * 1000:.0f} ms")
    print(f"left: {held}, {connections} connections to providers, {after / 2**20:.0f} MiB ({after / before:.3f} of before)")
    one_end_each = len(seen.ends_of) == streams and set(seen.ends_of.values()) == {1}
    nothing_held = all(float(node["heldUsd"]) == 0 for node in held["nodes"])
    return one_end_each and not seen.truncated and nothing_held and not connections and after <= MEMORY_ALLOWED * before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=100)
    options = parser.parse_args()
    os.environ["STREAMS_KEY"] = "sk-simulated"
    with tempfile.TemporaryDirectory() as name, start_simulator("--tokens-per-second", str(TOKENS_PER_SECOND)) as simulator:
        faults: StepFields = {"provider": "openai", "operation": "completion", "count": None, "share": 0.1}
        simulator.post({**faults, "fault": "status", "status": 503}, {**faults, "fault": "cut", "after_tokens": 20})
        config = Path(name) / "greenlang.toml"
        config.write_text(
            CONFIGURATION
            + PROVIDER.format(kind="openai", url=simulator.openai_url, model="gpt-5.4-mini")
            + PROVIDER.format(kind="anthropic", url=simulator.anthropic_url, model="claude-haiku-5-5")
        )
        with start_server(Path(name) / "data", "--config", str(config)) as server:
            good = asyncio.run(measure(server, simulator, options.streams, options.tokens))
    print("good" if good else "NOT good")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
