"""A provider of both wire protocols that answers each numbered call with a mutated payload of its own.

It is a real HTTP server in a thread. A call says its number in its prompt. A number and the seed always give the same
payloads, one for each try of the call. The model `good` answers as it should.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from threading import Thread
from typing import TypeVar

import msgspec

from tests.integration.payload_mutations import Mutator, Payload, good_payload
from tests.integration.stream_mutations import StreamMutator, StreamPayload

P = TypeVar("P", bound="FuzzingProvider")
GOOD = "good"
_NUMBER = re.compile(rb"Case (\d+)")
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass
class FuzzingProvider:
    """`sent` counts what was asked by number and model; `open` is how many requests are being answered."""

    seed: int
    port: int = 0
    open: int = 0
    sent: Counter[tuple[int, str]] = field(default_factory=Counter)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def payload(self, number: int, attempt: int, *, anthropic: bool, streamed: bool) -> Payload:
        random = Random(f"{self.seed}/{number}/{attempt}")
        return Mutator(random, anthropic=anthropic, streamed=streamed).payload()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False where the connection is not to be used again."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1])) if length else b""
        self.open += 1
        try:
            payload = self._choose(head, body) if body else Payload(200, (), b'{"object":"list","data":[]}')
            announced = len(payload.body) + (10 if payload.cut else 0)
            lines = [f"HTTP/1.1 {payload.status} {_phrase(payload.status)}", f"Content-Length: {announced}"]
            lines += [f"{name}: {value}" for name, value in payload.headers]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            for piece in payload.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        finally:
            self.open -= 1
        return not payload.cut

    def _choose(self, head: bytes, body: bytes) -> Payload:
        asked = msgspec.json.decode(body)
        found = _NUMBER.search(body)
        assert found is not None, body
        number, model = int(found[1]), asked["model"]
        anthropic, streamed = b"/messages" in head.split(b"\r\n", 1)[0], bool(asked.get("stream"))
        attempt = self.sent[number, model]
        self.sent[number, model] += 1
        if model == GOOD:
            return good_payload(anthropic=anthropic, streamed=streamed)
        return self.payload(number, attempt, anthropic=anthropic, streamed=streamed)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in {each.value for each in HTTPStatus} else "Odd"


class StreamFuzzingProvider(FuzzingProvider):
    """Answers with the streams of `stream_mutations`."""

    def payload(self, number: int, attempt: int, *, anthropic: bool, streamed: bool) -> StreamPayload:
        assert streamed
        return StreamMutator(Random(f"{self.seed}/{number}/{attempt}"), anthropic=anthropic).payload()


@contextmanager
def start_fuzzing_provider(provider: P) -> Iterator[P]:
    loop = asyncio.new_event_loop()

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(provider.serve, "127.0.0.1", 0)

    async def close() -> None:
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    server = loop.run_until_complete(listen())
    provider.port = server.sockets[0].getsockname()[1]
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield provider
    finally:
        asyncio.run_coroutine_threadsafe(close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
