"""What a client without a key sends writes no line of its own to the log. Its refusals are counted and reported once a minute."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from tests.app.graphql.serving import serving
from tests.app.graphql.shop import Shop

pytestmark = pytest.mark.anyio

POST = b"POST /graphql HTTP/1.1\r\nhost: x\r\n"
GET = b"GET /graphql HTTP/1.1\r\nhost: x\r\n"
HANDSHAKE = GET + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
KEY = b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
PROTOCOL = b"sec-websocket-protocol: graphql-transport-ws\r\n"
HEADS = {
    "TLS": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "no method": b"FOO\x00 / HTTP/1.1\r\n\r\n",
    "no version": b"GET / HTTP/9.9\r\n\r\n",
    "no header": b"GET / HTTP/1.1\r\nhost x\r\n\r\n",
    "a bad host": b"GET /graphql HTTP/1.1\r\nhost: \xff\x00\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two lengths": POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    "a bad chunk": POST + b"transfer-encoding: chunked\r\n\r\nZZ\r\n",
    "a large head": POST + b"x: " + b"a" * 70_000 + b"\r\n\r\n",
    "headers that are not UTF-8": GET + b"authorization: Bearer \xff\xfe\r\nx-request-id: \xff\r\naccept: */*\r\n\r\n",
    "a path that is not UTF-8": b"GET /%ff%00 HTTP/1.1\r\nhost: x\r\n\r\n",
    "another upgrade": GET + b"connection: upgrade\r\nupgrade: foo\r\n\r\n",
    "no key": POST + b"content-length: 2\r\n\r\n{}",
    "a wrong key": POST + b"authorization: Bearer sk-aaaaaaaaaaaa-" + b"b" * 32 + b"\r\ncontent-length: 0\r\n\r\n",
    "a handshake without its key": HANDSHAKE + PROTOCOL + b"\r\n",
    "a handshake with another version": HANDSHAKE.replace(b"13", b"99") + KEY + b"\r\n",
    "a handshake elsewhere": HANDSHAKE.replace(b"/graphql", b"/nope") + KEY + b"\r\n",
    "a handshake of a foreign page": HANDSHAKE + KEY + PROTOCOL + b"origin: \xff\r\n\r\n",
    "a handshake with a body": HANDSHAKE + KEY + PROTOCOL + b"content-length: 2\r\n\r\n{}",
    "a handshake with bad extensions": HANDSHAKE + KEY + b"sec-websocket-extensions: ;;;\r\n\r\n",
}
FRAMES = {
    "reserved bits": b"\xf1\x80\0\0\0\0",
    "no mask": b"\x81\x02hi",
    "no UTF-8": b"\x81\x82\0\0\0\0\xff\xfe",
    "a short close": b"\x88\x81\0\0\0\0\x00",
    "a huge frame": b"\x81\xff" + (2**40).to_bytes(8, "big") + b"\0\0\0\0",
    "a continuation of nothing": b"\x80\x81\0\0\0\0x",
    "no JSON": b"\x81\x84\0\0\0\0nope",
    "an operation before the key": b'\x81\x98\0\0\0\0{"type":"subscribe"}    ',
}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serving(Shop().app()) as found:
        yield found


async def send(port: int, *parts: bytes, wait: bool) -> None:
    """Each part after the answer to the one before; without `wait` the client is gone at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5):
            for part in parts:
                writer.write(part)
                await writer.drain()
                if wait or part is not parts[-1]:
                    await reader.read(4096)
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()


def reported(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The loggers of what is logged as a warning or worse, but for the one line of misuse."""
    found = [record.name for record in caplog.records if record.levelno >= logging.WARNING]
    if "app.web.misuse" in found:
        found.remove("app.web.misuse")
    return found


class TestALineEach:
    @pytest.mark.parametrize("wait", [True, False], ids=["read", "left at once"])
    @pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
    async def test_is_not_written_for_a_request(
        self, port: int, caplog: pytest.LogCaptureFixture, head: bytes, *, wait: bool
    ) -> None:
        for _ in range(3):
            await send(port, head, wait=wait)
        await asyncio.sleep(0.02)
        assert reported(caplog) == []

    @pytest.mark.parametrize("wait", [True, False], ids=["read", "left at once"])
    @pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
    async def test_is_not_written_for_a_frame(
        self, port: int, caplog: pytest.LogCaptureFixture, frame: bytes, *, wait: bool
    ) -> None:
        for _ in range(3):
            await send(port, HANDSHAKE + KEY + PROTOCOL + b"\r\n", frame, wait=wait)
        await asyncio.sleep(0.02)
        assert reported(caplog) == []
