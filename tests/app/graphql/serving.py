"""An application on a real uvicorn server in this event loop, and clients that speak to it over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import cast

import uvicorn
from starlette.types import ASGIApp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app.web.protocols import HttpProtocol
from app.web.websocket_protocol import WebSocketProtocol
from tests.app.graphql.shop import KEY

SUBPROTOCOL = Subprotocol("graphql-transport-ws")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, state: Mapping[str, object]) -> None:
        super().__init__(config)
        self._state = state

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.lifespan.state.update(self._state)
        await super().startup(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(
    app: ASGIApp,
    http: type[HttpProtocol] = HttpProtocol,
    ws: type[WebSocketProtocol] = WebSocketProtocol,
    state: Mapping[str, object] | None = None,
) -> AsyncIterator[int]:
    """The port it listens on. `state` is what an application's lifespan would hand the server."""
    config = uvicorn.Config(
        app,
        http=http,
        ws=ws,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        ws_per_message_deflate=False,
        ws_max_size=32 * 1024 * 1024,
    )
    server = _Server(config, state or {})
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await eventually(lambda: server.started)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task
        listener.close()


async def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0.005)


async def settled(value: Callable[[], object], seconds: float = 5.0) -> None:
    """Returns once many turns of the event loop have left the value as it was."""
    async with asyncio.timeout(seconds):
        before, turns = value(), 0
        while turns < 40:
            await asyncio.sleep(0.005)
            now = value()
            before, turns = now, turns + 1 if now == before else 0


class SocketClient:
    """Speaks graphql-transport-ws frame by frame, also wrong ones."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, frame: object) -> None:
        await self.connection.send(frame if isinstance(frame, str) else json.dumps(frame))

    async def receive(self) -> dict[str, object]:
        async with asyncio.timeout(5):
            return cast("dict[str, object]", json.loads(await self.connection.recv()))

    async def init(self, key: str | None = KEY) -> None:
        payload = {} if key is None else {"authorization": f"Bearer {key}"}
        await self.send({"type": "connection_init", "payload": payload})
        assert await self.receive() == {"type": "connection_ack"}

    async def subscribe(self, id_: str, query: str, variables: object = None) -> None:
        await self.send({"id": id_, "type": "subscribe", "payload": {"query": query, "variables": variables}})

    async def taken(self) -> None:
        """Returns once the server has read all that was sent."""
        await self.send({"type": "ping"})
        assert await self.receive() == {"type": "pong"}

    async def closed(self) -> tuple[int, str]:
        """Reads on to the end; the close's code and reason."""
        async with asyncio.timeout(5):
            with suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
        return self.connection.close_code or 0, self.connection.close_reason or ""


@asynccontextmanager
async def socket_client(port: int, **options: object) -> AsyncIterator[SocketClient]:
    options = {"subprotocols": [SUBPROTOCOL], "compression": None, "max_size": None, **options}
    scheme = "wss" if "ssl" in options else "ws"
    async with connect(f"{scheme}://127.0.0.1:{port}/graphql", **options) as connection:  # type: ignore[arg-type]  # passed on as given
        yield SocketClient(connection)


class StreamClient:
    """One server-sent event stream on a bare connection, which can vanish."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers = b""

    async def start(
        self, query: str, key: str = KEY, variables: object = None, *, accept: str = "text/event-stream", behind: bytes = b""
    ) -> None:
        """`behind` is sent together with it."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        head = (
            f"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\naccept: {accept}\r\n"
            f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body + behind)
        async with asyncio.timeout(5):
            self.headers = await self.reader.readuntil(b"\r\n\r\n")
        self.status = int(self.headers.split(b" ")[1])

    async def event(self) -> tuple[str, object]:
        """The next event's name and data; comments are skipped."""
        name = ""
        async with asyncio.timeout(5):
            while True:
                line = (await self.reader.readline()).decode().rstrip("\r\n")
                if line.startswith("event:"):
                    name = line[6:].strip()
                elif line.startswith("data:"):
                    text = line[5:].strip()
                    return name, json.loads(text) if text else None

    def vanish(self) -> None:
        cast("asyncio.Transport", self.writer.transport).abort()


@asynccontextmanager
async def stream_client(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[StreamClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20, ssl=tls)
    try:
        yield StreamClient(reader, writer)
    finally:
        cast("asyncio.Transport", writer.transport).abort()


async def subscription_in_parts(size: int, more: asyncio.Event) -> AsyncIterator[str]:
    """The frame of a query with so many bytes of variables, whose last part comes once there may be more."""
    yield '{"id": "a", "type": "subscribe", "payload": {"query": "{ hello }", "variables": {"pad": "' + "x" * size
    await more.wait()
    yield '"}}}'
