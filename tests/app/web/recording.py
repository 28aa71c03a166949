"""An application that remembers its requests, served by the server's own protocol, and clients that choose the segments."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.web.protocols import HttpProtocol
from app.web.websocket_protocol import WebSocketProtocol
from tests.app.graphql.serving import eventually

NEXT = b"GET /next HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@dataclass(slots=True)
class Recording:
    """`seen` are method, path, body and header fields of every request; `port` is where it is served.

    `/early` is answered before its body is read, `/held` once the gate is open, and `/begun` has begun to be answered until then.
    """

    port: int = 0
    sent: int = 0
    received: int = 0
    connection: asyncio.BaseTransport | None = None
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    fields: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    ended_early: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": path})
            await receive()
            return
        if path == "/early":
            self._record(scope, b"")
            await _answer(send, path, b"")
            return
        body = b""
        if path == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
            await send({"type": "http.response.body", "body": b"12", "more_body": True})
        more = True
        while more:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                self.ended_early += 1
                return
            body, more = body + message["body"], message["more_body"]
        self._record(scope, body)
        if path == "/held":
            await self.gate.wait()
        await _answer(send, path, body)

    def _record(self, scope: Scope, body: bytes) -> None:
        self.seen.append((scope["method"], scope["path"], body))
        self.fields.append(scope["headers"])

    async def exchange(self, *segments: bytes, until: Callable[[], object] | None = None) -> list[tuple[int, object]]:
        """Status and content of all answers until the server closes; every segment is read before the next is sent.

        `until` is waited for after the last segment, then the gate opens.
        """
        self.received = self.sent = 0
        self.connection = None
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for segment in segments:
                if self.closed:
                    break
                writer.write(segment)
                self.sent += len(segment)
                await _was_read(self)
            if until is not None:
                await eventually(until)
            self.gate.set()
            async with asyncio.timeout(10):
                return answers(await reader.read())
        finally:
            writer.transport.abort()

    @property
    def closed(self) -> bool:
        return self.connection is not None and self.connection.is_closing()


async def _was_read(server: Recording) -> None:
    async with asyncio.timeout(10):
        while server.received < server.sent and not server.closed:  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0)


async def _answer(send: Send, path: str, body: bytes) -> None:
    content = json.dumps({"path": path, "body": body.decode("latin-1")}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def answers(said: bytes) -> list[tuple[int, object]]:
    """Every answer with a length; fails if anything else was said between them or is cut short."""
    found: list[tuple[int, object]] = []
    while said:
        head, end, said = said.partition(b"\r\n\r\n")
        assert end, f"no head of an answer: {head!r}"
        line, *fields = head.split(b"\r\n")
        assert line.startswith(b"HTTP/1.1 "), line
        length = {name.lower(): value for name, _, value in (each.partition(b": ") for each in fields)}.get(
            b"content-length", b"0"
        )
        content, said = said[: int(length)], said[int(length) :]
        assert len(content) == int(length), f"cut short: {head!r} {content!r}"
        found.append((int(line.split(b" ")[1]), json.loads(content) if content.startswith(b"{") else content.decode() or None))
    return found


def segmentations(data: bytes, *, every: bool = False) -> list[Sequence[bytes]]:
    """In one, byte by byte, and in two: between head and body, or at every place."""
    end = data.index(b"\r\n\r\n") + 4
    places = range(1, len(data)) if every else {end - 2, end, min(end + 1, len(data) - 1)}
    return [[data], [data[at : at + 1] for at in range(len(data))], *([data[:at], data[at:]] for at in places)]


@asynccontextmanager
async def recording(protocol: type[HttpToolsProtocol] = HttpProtocol) -> AsyncIterator[Recording]:
    app = Recording()

    class Counted(protocol):  # type: ignore[misc, valid-type]  # any protocol, with a count
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            app.connection = transport

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            app.received += len(data)

    config = uvicorn.Config(app, http=Counted, ws=WebSocketProtocol, lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: Counted(config, state, {}), "127.0.0.1", 0)
    app.port = server.sockets[0].getsockname()[1]
    try:
        yield app
    finally:
        server.close()
        app.gate.set()
        for connection in tuple(state.connections):
            connection.transport.abort()
        await eventually(lambda: not state.tasks)
