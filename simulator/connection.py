"""One client's connection, with two things that ASGI lacks: to break it off, and to notice that the client has left."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Scope: TypeAlias = MutableMapping[str, Any]  # ASGI's own loose shapes
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_TRANSPORT = "simulator.transport"
_LONG_PAUSE_SECONDS = 0.25


class TransportProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which also gives the transport to the application."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"][_TRANSPORT] = self.transport


class Connection:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._transport: asyncio.Transport = scope["state"][_TRANSPORT]
        self._receive = receive
        self._send = send

    @property
    def gone(self) -> bool:
        return self._transport.is_closing()

    async def body(self, most: int) -> bytes | None:
        """Returns None if the body is larger than allowed. Then the rest stays unread."""
        message = await self._receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return body
        parts, size = [body], len(body)
        while message.get("more_body") and size <= most:
            message = await self._receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        return b"".join(parts) if size <= most else None

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def pause(self, seconds: float) -> None:
        """Ends early when the client leaves."""
        if seconds > _LONG_PAUSE_SECONDS:
            try:
                await asyncio.wait_for(self.left(), seconds)
            except TimeoutError:
                pass
        elif seconds > 0:
            await asyncio.sleep(seconds)

    async def left(self) -> None:
        """Returns when the client has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def flushed(self) -> None:
        """Returns when the kernel has what was written, or after some turns of the loop."""
        for _ in range(100):
            await asyncio.sleep(0)
            if self._transport.get_write_buffer_size() == 0:
                return

    async def close(self) -> None:
        """Sends what was written, then ends the connection."""
        self._transport.close()
        await self.pause(1)

    async def reset(self) -> None:
        """Sends an RST instead of a FIN."""
        file_number: int = self._transport.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(file_number)) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        await self.pause(1)
