"""Connections that do not come about, or bring something else than an answer, or break."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import FailureKind, ProviderError
from app.llm.messages import TextDelta
from app.llm.providers.upstream import connecting_timeout
from app.settings import ProviderKindName, ProviderTimeouts
from tests.app.llm.calls import ANTHROPIC, OPENAI, SHORT, adapter, call, failure

pytestmark = pytest.mark.anyio


@contextmanager
def unreachable() -> Iterator[str]:
    """An address where no connection comes about: the queue of a server that accepts no connection is full."""
    with socket.socket() as server, ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(2):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@asynccontextmanager
async def answering(raw: bytes) -> AsyncIterator[str]:
    """A server that answers every request with these bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class TestConnecting:
    @given(usual=st.floats(0.1, 60), seconds=st.floats(0.01, 60), now=st.floats(0, 1e6))
    def test_ends_within_the_time_it_is_given(self, usual: float, seconds: float, now: float) -> None:
        """As aiohttp reckons: what is longer than five seconds ends at a whole one."""
        timeout = connecting_timeout(usual, seconds)
        for part in (timeout.connect, timeout.pool):
            assert part is not None
            assert 0 < part <= seconds
            assert (math.ceil(now + part) if part > 5 else now + part) <= now + seconds + 1e-6
        assert timeout.pool is not None
        assert timeout.pool >= min(seconds, 5.0)


class TestAnAttempt:
    @pytest.mark.parametrize("streamed", [True, False])
    @pytest.mark.parametrize(
        ("seconds", "timeouts", "reported"),
        [
            (2, ProviderTimeouts(), FailureKind.TOTAL_TIMEOUT),
            (10, ProviderTimeouts(first_token=timedelta(seconds=2)), FailureKind.FIRST_TOKEN_TIMEOUT),
            (10, ProviderTimeouts(connect=timedelta(seconds=0.2)), FailureKind.CONNECT_TIMEOUT),
        ],
    )
    async def test_before_a_connection_came_about_costs_nothing(
        self,
        kind: ProviderKindName,
        model: str,
        seconds: float,
        timeouts: ProviderTimeouts,
        reported: FailureKind,
        *,
        streamed: bool,
    ) -> None:
        with unreachable() as address:
            provider = adapter(kind, address, timeouts=timeouts)
            error = await failure(provider, model, streamed=streamed, seconds=seconds)
            await provider.close()

        assert (error.kind, error.usage) == (reported, None)

    @pytest.mark.parametrize("body", [b'{"error": {"message": "no"}}', b"<html>maintenance</html>"])
    async def test_by_a_page_instead_of_a_stream_costs_nothing(self, kind: ProviderKindName, model: str, body: bytes) -> None:
        async with answering(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n" + body) as address:
            provider = adapter(kind, address, timeouts=SHORT)
            error = await failure(provider, model, streamed=True)
            await provider.close()

        assert error.usage is None

    async def test_by_events_that_cannot_be_read_is_charged_for_the_input(self, kind: ProviderKindName, model: str) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        async with answering(head + b"data: {broken\n\ndata: {broken\n\n") as address:
            provider = adapter(kind, address, timeouts=SHORT)
            error = await failure(provider, model, streamed=True)
            await provider.close()

        assert error.usage is not None
        assert (error.usage.confirmed, error.usage.input_tokens > 0, error.usage.output_tokens) == (False, True, 0)


class TestABrokenConnection:
    async def test_loses_nothing_of_what_came_before_it_broke(self, kind: ProviderKindName, model: str) -> None:
        """What the system keeps while a stream is not read is still there after the provider has reset the connection."""
        read, sent = asyncio.Event(), asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(_chunk(*_BEGINS[kind], _DELTAS[kind] % b"one"))
            await read.wait()
            writer.write(_chunk(*(_DELTAS[kind] % word for word in (b" two", b" three"))))
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            sent.set()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        provider = adapter(kind, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeouts=SHORT)
        stream = provider.stream(call(model))
        texts = [cast("TextDelta", await anext(stream)).text]
        following = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        read.set()
        await sent.wait()
        texts.append(cast("TextDelta", await following).text)
        with pytest.raises(ProviderError) as caught:
            await anext(stream)
        assert "".join(texts) == "one two three"
        assert caught.value.kind is FailureKind.TRUNCATED
        await provider.close()
        server.close()
        await server.wait_closed()


_BEGINS = {
    ANTHROPIC: (
        b'{"type":"message_start","message":{"model":"m","usage":{"input_tokens":3,"output_tokens":1}}}',
        b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
    ),
    OPENAI: (),
}
_DELTAS = {
    ANTHROPIC: b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}',
    OPENAI: b'{"choices":[{"index":0,"delta":{"content":"%s"}}]}',
}


def _chunk(*payloads: bytes) -> bytes:
    body = b"".join(b"data: %s\n\n" % payload for payload in payloads)
    return b"%x\r\n%s\r\n" % (len(body), body)
