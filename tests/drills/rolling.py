"""Three servers behind HAProxy, and clients that call, stream and follow alerts while the servers are replaced one by one."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp

from tests.processes import family, kill_all
from tests.proxies import start_proxy
from tests.servers import RunningServer, start_server
from tests.simulators import start_simulator

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it

SERVERS = 3
COMPLETE = (
    "mutation Go($input: CompletionInput!) { found: completionCreate(input: $input) { __typename ... on Problem { message } } }"
)
BUDGET = (
    "mutation Go($input: BudgetCreateInput!) { found: budgetCreate(input: $input) { __typename ... on Problem { message } } }"
)
_EVENT = """
  __typename ... on StreamEvent { cursor } ... on CompletionDelta { text } ... on CompletionStarted { completionId }
  ... on CompletionFinished { completion { text } }
  ... on CompletionFailed { problem { __typename ... on Problem { message } } }"""
STREAM = f"subscription Go($input: CompletionInput!) {{ found: completionStream(input: $input) {{ {_EVENT} }} }}"
GO_ON = f"subscription Go($id: ID!, $after: Cursor) {{ found: completionEvents(id: $id, after: $after) {{ {_EVENT} }} }}"
ALERTS = """
subscription Go($after: Cursor) { found: budgetAlerts(after: $after) {
  __typename ... on StreamEvent { cursor } ... on BudgetAlertRaised { alert { id } } } }"""
_CONFIGURATION = """
[server]
drain_delay = "{drain_delay}"
shutdown_grace = "20s"
[database]
primary = {{ env = "ROLL_PRIMARY" }}
owner = {{ env = "ROLL_OWNER" }}
[redis]
url = {{ env = "ROLL_REDIS" }}
[cache]
enabled = false
[limits]
sockets_per_key = 10000
[content]
encryption_keys = [{{ env = "ROLL_CONTENT" }}]
[[providers]]
name = "openai"
kind = "openai"
base_url = "{openai}"
api_keys = [{{ env = "ROLL_PROVIDER" }}]
models = [{{ name = "gpt-5.4-mini" }}, {{ name = "gpt-5.4" }}]
pool_size = 1000
limits = {{ requests_per_minute = 1000000, tokens_per_minute = 100000000 }}
"""
_PROXY = """
global
    maxconn 8192
defaults
    mode http
    timeout connect 2s
    timeout client 120s
    timeout server 120s
    timeout tunnel 120s
    option redispatch
frontend all
    bind 127.0.0.1:LISTEN
    default_backend servers
backend servers
    balance leastconn
    option httpchk GET /ready
    http-check expect status 200
    timeout check 5s
    default-server inter 1s fall 3 rise 1
"""


@dataclass
class Cluster:
    """Servers on fixed ports, each replaced by `roll`."""

    folder: Path
    arguments: tuple[str, ...]
    environ: Mapping[str, str]
    ports: tuple[int, ...]
    running: dict[int, tuple[RunningServer, AbstractContextManager[RunningServer]]] = field(default_factory=dict)
    address: str = ""

    def start(self, number: int) -> RunningServer:
        port = str(self.ports[number])
        log = self.folder / f"server-{number}.log"
        starting = start_server(self.folder / f"data-{number}", *self.arguments, "--port", port, environ=self.environ, log=log)
        server = starting.__enter__()
        self.running[number] = server, starting
        return server

    def end(self, number: int, sign: signal.Signals) -> int:
        """Returns the exit status. SIGKILL goes to all its processes, so that none of them drains because its parent has died."""
        server, starting = self.running.pop(number)
        if sign is signal.SIGKILL:
            kill_all(family(server.process.pid))
        else:
            server.process.send_signal(sign)
        status = server.process.wait(60)
        starting.__exit__(None, None, None)
        return status

    async def roll(self, sign: signal.Signals) -> list[int]:
        """Replaces all, each after the one before serves again and the proxy knows it. Returns their exit statuses."""
        statuses = []
        for number in range(SERVERS):
            statuses.append(await asyncio.to_thread(self.end, number, sign))
            await asyncio.to_thread(self.start, number)
            await asyncio.sleep(2)
        return statuses


def _free_ports() -> tuple[int, ...]:
    with ExitStack() as held:
        return tuple(held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(SERVERS))


@contextmanager
def start_cluster(folder: Path, stores: Mapping[str, str], *, drain_delay: str) -> Iterator[tuple[Cluster, str]]:
    """Yields it with the key of an administrator."""
    with ExitStack() as stack:
        simulator = stack.enter_context(start_simulator("--latency-ms", "50"))
        simulator.post({"model": "gpt-5.4", "count": None, "token_delay_ms": 700, "answer": {"tokens": 30}})
        file = folder / "greenlang.toml"
        file.write_text(_CONFIGURATION.format(drain_delay=drain_delay, openai=simulator.openai_url), encoding="utf-8")
        cluster = Cluster(folder, ("--config", str(file)), stores, _free_ports())
        stack.callback(lambda: [cluster.end(number, signal.SIGKILL) for number in list(cluster.running)])
        first = cluster.start(0)
        assert first.key is not None
        for number in range(1, SERVERS):
            cluster.start(number)
        servers = "".join(f"    server s{number} 127.0.0.1:{port} check\n" for number, port in enumerate(cluster.ports))
        port = stack.enter_context(start_proxy("haproxy", folder, _PROXY + servers))
        cluster.address = f"http://127.0.0.1:{port}"
        yield cluster, first.key


@dataclass
class Client:
    """Everything that it saw go wrong is in `failures`."""

    address: str
    session: aiohttp.ClientSession
    failures: list[str] = field(default_factory=list)
    calls: int = 0
    streams: int = 0
    resumed: int = 0
    alerts: int = 0
    """How many were caused."""

    async def execute(self, query: str, **variables: object) -> None:
        self.calls += 1
        try:
            async with self.session.post(f"{self.address}/graphql", json={"query": query, "variables": variables}) as answer:
                text = await answer.text()
                found: Data = json.loads(text)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(f"call: {error!r}")
            return
        except ValueError:
            self.failures.append(f"call: {text}")
            return
        outcome = (found.get("data") or {}).get("found") or found
        if outcome.get("__typename") not in {"Completion", "Budget"}:
            self.failures.append(f"call: {outcome}")

    async def call_openly(self, per_second: float, until: asyncio.Event) -> None:
        """Calls at a rate that does not depend on the answers."""
        async with asyncio.TaskGroup() as calls:
            while not until.is_set():
                text = f"Question {self.calls}"
                asked = {"model": "openai/gpt-5.4-mini", "messages": [{"role": "USER", "text": text}]}
                calls.create_task(self.execute(COMPLETE, input=asked))
                await asyncio.sleep(1 / per_second)

    async def stream_again_and_again(self, number: int, until: asyncio.Event) -> None:
        for turn in itertools.count():
            if until.is_set():
                return
            asked = {
                "model": "openai/gpt-5.4",
                "messages": [{"role": "USER", "text": f"Stream {number}.{turn}"}],
                "idempotencyKey": f"stream-{number}-{turn}",
            }
            stream = Follower(self, STREAM, {"input": asked})
            await stream.follow()
            self.streams += 1
            text = "".join(event.get("text", "") for event in stream.events)
            if stream.last.get("completion", {}).get("text") != text:
                self.failures.append(f"stream {number}.{turn}: {stream.last}, {len(text)} characters seen")


@dataclass
class Follower:
    """Follows one stream to its end, over as many sockets as it takes. `until` ends one that has no end."""

    client: Client
    query: str
    variables: dict[str, object]
    until: asyncio.Event | None = None
    events: list[Data] = field(default_factory=list)
    cursor: str | None = None

    @property
    def last(self) -> Data:
        return self.events[-1] if self.events else {}

    async def follow(self) -> None:
        deadline = math.inf if self.until is not None else time.monotonic() + 90
        while time.monotonic() < deadline and self.last.get("__typename") not in {"CompletionFinished", "CompletionFailed"}:
            if self.until is not None and self.until.is_set():
                return
            try:
                await self._watch()
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                await asyncio.sleep(0.1)

    async def _watch(self) -> None:
        query, variables = self.query, self.variables
        if self.cursor is not None:
            self.client.resumed += 1
            variables = {"after": self.cursor}
            if self.until is None:
                query, variables = GO_ON, variables | {"id": self.events[0]["completionId"]}
        async with self.client.session.ws_connect(f"{self.client.address}/graphql", protocols=["graphql-transport-ws"]) as opened:
            await opened.send_json({"type": "connection_init"})
            while (frame := await self._frame(opened)) is not None:
                match frame["type"]:
                    case "connection_ack":
                        payload = {"query": query, "variables": variables}
                        await opened.send_json({"id": "1", "type": "subscribe", "payload": payload})
                    case "ping":
                        await opened.send_json({"type": "pong"})
                    case "next":
                        self._take(frame["payload"])
                    case "complete" | "error":
                        return

    async def _frame(self, opened: aiohttp.ClientWebSocketResponse) -> Data | None:
        """None if the socket is closed, or if this follower is to end."""
        while self.until is None or not self.until.is_set():
            try:
                message = await opened.receive(1.0 if self.until is not None else 60.0)
            except TimeoutError:
                continue
            if message.type is not aiohttp.WSMsgType.TEXT:
                return None
            found: Data = message.json()
            return found
        return None

    def _take(self, payload: Data) -> None:
        event = (payload.get("data") or {}).get("found")
        if event is None:
            self.client.failures.append(f"an event: {payload}")
            return
        self.cursor = event["cursor"]
        if event["__typename"] != "Heartbeat":
            self.events.append(event)
