"""One event to 5,000 subscribers on one process: ours, next to a bare WebSocket server that sends the same bytes.

    python -m benchmarks.fanout [subscribers]

Prints the time until the last subscriber has the event (the clients run on the same machine), the server's CPU for one event and
its memory per connection.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import psutil
import strawberry
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from app.access.allowance import Allowance
from app.access.audience import Audience
from app.access.principal import Principal
from app.graphql.routes import build_graphql_routes, build_operations
from app.runtime.clock import SystemClock
from app.runtime.drain import Drain
from app.runtime.offload import Offload
from app.settings import Settings
from app.web.client_address import TrustedProxies
from app.web.misuse import Misuse
from app.web.protocols import HttpProtocol
from app.web.websocket_protocol import WebSocketProtocol

SUBSCRIBERS = 5000
EVENTS = 15
MARK = b'"cursor":"c-'
QUERY = "subscription { news { cursor at provider model health } }"


# ---------------------------------------------------------------------------------------------------------------- servers
@dataclass(slots=True)
class Topic:
    waiting: list[asyncio.Queue[int]] = field(default_factory=list)
    published: int = 0

    def publish(self) -> None:
        self.published += 1
        for queue in self.waiting:
            queue.put_nowait(self.published)


@strawberry.type
class News:
    cursor: str
    at: str
    provider: str
    model: str
    health: str


def news(number: int) -> News:
    return News(cursor=f"c-{number}", at="2026-11-22T12:00:00Z", provider="openai", model="gpt-5", health="DEGRADED")


async def _events(info: strawberry.Info[Topic, None]) -> AsyncGenerator[News, None]:
    queue: asyncio.Queue[int] = asyncio.Queue()
    info.context.waiting.append(queue)
    try:
        while True:
            yield news(await queue.get())
    finally:
        info.context.waiting.remove(queue)


@strawberry.type
class Query:
    hello: str


@strawberry.type
class Subscription:
    news: AsyncGenerator[News, None] = strawberry.subscription(resolver=_events, metadata={"broadcast": Audience.EVERYONE})


def our_app() -> Starlette:
    topic = Topic()

    async def authenticate(_headers: Mapping[str, str]) -> Principal:
        return Principal(UUID(int=1), "bench", "acme", frozenset())

    def make_context(_principal: Principal, _request_id: str, _allowance: Allowance) -> Topic:
        return topic

    settings = Settings()
    limits = settings.limits.model_copy(update={"sockets_per_key": 100_000, "allowance_capacity": 10**9})
    server = settings.server.model_copy(update={"max_in_flight": 100_000})
    schema = strawberry.Schema(Query, subscription=Subscription)
    operations = build_operations(
        schema,
        settings=settings.model_copy(update={"limits": limits, "server": server}),
        authenticate=authenticate,
        make_context=make_context,
        clock=SystemClock(),
        offload=Offload(),
        misuse=Misuse(CollectorRegistry(), TrustedProxies(), SystemClock()),
        drain=Drain(1, SystemClock().monotonic),
    )
    routes = build_graphql_routes(schema, operations, server)

    async def publish(_request: Request) -> PlainTextResponse:
        topic.publish()
        return PlainTextResponse("ok")

    return Starlette(routes=[*routes, Route("/publish", publish, methods=["POST"])])


class BareSocket:
    def __init__(self, sends: set[Send]) -> None:
        self._sends = sends

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "graphql-transport-ws"})
        await receive()
        await send({"type": "websocket.send", "text": '{"type":"connection_ack"}'})
        self._sends.add(send)
        while (await receive())["type"] != "websocket.disconnect":
            pass
        self._sends.discard(send)


def bare_app() -> Starlette:
    sends: set[Send] = set()
    published = [0]

    async def publish(_request: Request) -> PlainTextResponse:
        published[0] += 1
        event = vars(news(published[0]))
        text = json.dumps({"id": "1", "type": "next", "payload": {"data": {"news": event}}}, separators=(",", ":"))
        for send in tuple(sends):
            await send({"type": "websocket.send", "text": text})
        return PlainTextResponse("ok")

    return Starlette(routes=[WebSocketRoute("/graphql", BareSocket(sends)), Route("/publish", publish, methods=["POST"])])


def serve(name: str, descriptor: int) -> None:
    config = uvicorn.Config(
        our_app() if name == "ours" else bare_app(),
        loop="uvloop",
        http=HttpProtocol,
        ws=WebSocketProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        ws_per_message_deflate=False,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


# ---------------------------------------------------------------------------------------------------------------- clients
def masked(text: str) -> bytes:
    """A client's text frame; a mask of zeros leaves the text as it is."""
    data = text.encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0xFE]) + len(data).to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + data


class Subscriber(asyncio.Protocol):
    def __init__(self, fleet: Fleet, port: int) -> None:
        self._fleet = fleet
        self._port = port
        self._ready = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /graphql HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self._ready:
            self._fleet.saw(data.count(MARK))
        elif b"101 Switching" in data and self.transport is not None:
            self.transport.write(masked('{"type":"connection_init","payload":{"authorization":"Bearer sk-1"}}'))
        elif b"connection_ack" in data and self.transport is not None:
            self._ready = True
            frame = {"id": "1", "type": "subscribe", "payload": {"query": QUERY}}
            self.transport.write(masked(json.dumps(frame)))
            self._fleet.ready += 1


@dataclass(slots=True)
class Fleet:
    size: int
    ready: int = 0
    seen: int = 0
    last_at: float = 0.0
    all_seen: asyncio.Event = field(default_factory=asyncio.Event)

    def saw(self, events: int) -> None:
        self.seen += events
        if self.seen >= self.size:
            self.last_at = time.perf_counter()
            self.all_seen.set()

    async def connect(self, port: int) -> list[asyncio.BaseTransport]:
        loop = asyncio.get_running_loop()
        transports: list[asyncio.BaseTransport] = []
        for start in range(0, self.size, 100):
            made = [
                loop.create_connection(lambda: Subscriber(self, port), "127.0.0.1", port)
                for _ in range(min(100, self.size - start))
            ]
            transports += [transport for transport, _ in await asyncio.gather(*made)]
        async with asyncio.timeout(60):
            while self.ready < self.size:  # noqa: ASYNC110 (counted by many protocols)
                await asyncio.sleep(0.05)
        await asyncio.sleep(2)
        return transports


async def publish(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await reader.read()
    writer.close()


@asynccontextmanager
async def served(name: str) -> AsyncGenerator[tuple[int, psutil.Process], None]:
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    command = [sys.executable, "-m", "benchmarks.fanout", "--serve", name, str(listening.fileno())]
    process = subprocess.Popen(  # noqa: ASYNC220 (nothing else runs yet)
        command, pass_fds=[listening.fileno()]
    )
    port = listening.getsockname()[1]
    listening.close()
    try:
        await asyncio.sleep(3)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=30)


async def measure(name: str, size: int) -> None:
    async with served(name) as (port, process):
        await publish(port)
        before = process.memory_info().rss
        fleet = Fleet(size)
        transports = await fleet.connect(port)
        per_connection = (process.memory_info().rss - before) / size / 1000
        lasts, cpus = [], []
        for _ in range(EVENTS):
            fleet.seen = 0
            fleet.all_seen.clear()
            cpu, started = sum(process.cpu_times()[:2]), time.perf_counter()
            sending = asyncio.create_task(publish(port))
            async with asyncio.timeout(60):
                await fleet.all_seen.wait()
            await sending
            lasts.append((fleet.last_at - started) * 1000)
            await asyncio.sleep(0.1)
            cpus.append((sum(process.cpu_times()[:2]) - cpu) * 1000)
        print(
            f"{name:6} last delivery {statistics.median(lasts):7.1f} ms   CPU {statistics.median(cpus):7.1f} ms an event "
            f"({statistics.median(cpus) * 1000 / size:5.1f} us a subscriber)   {per_connection:5.1f} kB a connection"
        )
        for transport in transports:
            transport.close()


async def main(size: int) -> None:
    print(f"{size} subscribers, one process, median of {EVENTS} events")
    for name in ("bare", "ours"):
        await measure(name, size)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else SUBSCRIBERS))
