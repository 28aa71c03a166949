"""Sends an answer piece by piece as server-sent events.

The head goes out with the first piece, so a failure before it is an ordinary answer with its status, and failover stays unseen.
After the head, a failure is the last piece.
After a while of waiting the head goes out without a piece, because proxies hang up on models that think for long. When the client
leaves, the pieces are closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from starlette.types import Receive, Send

HEAD_SECONDS = 15.0
PING_SECONDS = 15.0
_HEAD = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))


class EventSender:
    def __init__(self, receive: Receive, send: Send, headers: Sequence[tuple[bytes, bytes]], ping: bytes) -> None:
        self._receive = receive
        self._send = send
        self._headers = headers
        self._ping = ping
        self.begun = False

    async def run(self, pieces: AsyncGenerator[bytes, None], write: Callable[[Exception], bytes]) -> None:
        """Raises what `pieces` raises before the head was sent. After that `write` makes a piece of it."""
        pump, watcher = asyncio.create_task(self._pump(pieces, write)), asyncio.create_task(self._left())
        try:
            while not (pump.done() or watcher.done()):
                seconds = PING_SECONDS if self.begun else HEAD_SECONDS
                await asyncio.wait((pump, watcher), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if not (pump.done() or watcher.done()):
                    await self._begin()
                    await self._send_body(self._ping)
        finally:
            for task in (pump, watcher):
                task.cancel()
            await asyncio.gather(pump, watcher, return_exceptions=True)
            await pieces.aclose()
        if pump.done() and not pump.cancelled() and (error := pump.exception()) is not None:
            raise error

    async def _pump(self, pieces: AsyncGenerator[bytes, None], write: Callable[[Exception], bytes]) -> None:
        try:
            async for piece in pieces:
                await self._begin()
                await self._send_body(piece)
        except Exception as error:
            if not self.begun:
                raise
            await self._send_body(write(error))
        await self._send({"type": "http.response.body", "body": b""})

    async def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": [*_HEAD, *self._headers]})

    async def _send_body(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
