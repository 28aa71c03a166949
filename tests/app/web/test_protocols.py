"""What a other_caller may send before anybody knows who it is, on a real server."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request

from app.web.protocols import HEAD_BYTES, HttpProtocol
from app.web.websocket_protocol import WebSocketProtocol
from tests.app.graphql.serving import serving, settled, socket_client, stream_client, subscription_in_parts
from tests.app.graphql.shop import KEY, Shop, with_limits

pytestmark = pytest.mark.anyio

START = b"GET /graphql?query={hello} HTTP/1.1\r\nhost: x\r\n"
KEYED = START + b"authorization: Bearer " + KEY.encode() + b"\r\n"


class Hasty(HttpProtocol):
    head_seconds = 0.2


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serving(Shop().app()) as found:
        yield found


async def answer(port: int, *chunks: bytes) -> tuple[int, dict[str, object]]:
    """Status and body of what the server says before it closes; (0, {}) where it closes without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(10):
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    except ConnectionError:
        return 0, {}
    finally:
        writer.transport.abort()
    return (int(head.split(b" ")[1]), json.loads(body)) if head else (0, {})


def code_of(body: dict[str, object]) -> object:
    return body["errors"][0]["extensions"]["code"]  # type: ignore[index]  # JSON


class TestTheHeadOfARequest:
    @pytest.mark.parametrize(
        "head",
        [
            pytest.param(START + b"x-long: " + b"a" * HEAD_BYTES, id="a header without an end"),
            pytest.param(START + b"x-a: b\r\n" * (HEAD_BYTES // 8), id="headers without an end"),
            pytest.param(b"GET /" + b"a" * HEAD_BYTES, id="a line without an end"),
            pytest.param(START + b"x-long: " + b"a" * HEAD_BYTES + b"\r\n\r\n", id="a long header that comes at once"),
        ],
    )
    async def test_over_its_limit_is_refused(self, port: int, head: bytes) -> None:
        status, body = await answer(port, head)
        assert (status, code_of(body)) == (431, "LIMIT_EXCEEDED")

    async def test_within_its_limit_is_read_in_any_pieces(self, port: int) -> None:
        head = KEYED + b"connection: close\r\nx-long: " + b"a" * (HEAD_BYTES - 2000) + b"\r\n\r\n"
        status, body = await answer(port, *(head[start : start + 5000] for start in range(0, len(head), 5000)))
        assert (status, body["data"]) == (200, {"hello": "hello world"})

    async def test_a_large_body_before_the_next_request_does_not_count(self, port: int) -> None:
        body = json.dumps({"query": "{ hello }", "variables": {"pad": "x" * 2 * HEAD_BYTES}}).encode()
        first = KEYED.replace(b"GET", b"POST") + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first + body + KEYED)
        writer.write(b"connection: close\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.read()).count(b"HTTP/1.1 200") == 2
        writer.close()

    async def test_must_come_in_time(self) -> None:
        async with serving(Shop().app(), Hasty) as port:
            assert await answer(port, START) == (0, {})
            assert await answer(port) == (0, {})

    async def test_once_it_has_come_the_time_is_over(self) -> None:
        async with serving(Shop().app(), Hasty) as port:
            slow = KEYED.replace(b"{hello}", b"{wait(seconds:0.5)}") + b"connection: close\r\n\r\n"
            status, body = await answer(port, slow)
        assert (status, body["data"]) == (200, {"wait": "waited"})

    @pytest.mark.parametrize("start", [b"NONSENSE\r\n\r\n", b"FOO / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01 TLS"])
    async def test_what_is_no_http_is_refused_in_json(self, port: int, start: bytes) -> None:
        status, body = await answer(port, start)
        assert (status, code_of(body)) == (400, "BAD_USER_INPUT")


class TestWhatIsLeftOfABody:
    START = KEYED.replace(b"GET", b"PUT") + b"content-length: 5\r\n\r\n"

    async def test_comes_in_time_after_the_answer(self) -> None:
        async with serving(Shop().app(), Hasty) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(self.START + b"1")
            async with asyncio.timeout(5):
                assert b" 405 " in await reader.readuntil(b"}]}")
                writer.write(b"2")
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()

    async def test_lets_the_next_request_come_once_it_is_whole(self) -> None:
        async with serving(Shop().app(), Hasty) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(self.START)
            async with asyncio.timeout(5):
                await reader.readuntil(b"}]}")
                writer.write(b"12345")
                await asyncio.sleep(2 * Hasty.head_seconds)
                writer.write(KEYED + b"connection: close\r\n\r\n")
                assert b" 200 " in await reader.read()
            writer.close()

    async def test_once_whole_the_connection_may_be_idle_for_so_long(self) -> None:
        class Impatient(HttpProtocol):
            def __init__(self, *given: Any, **options: Any) -> None:
                super().__init__(*given, **options)
                self.timeout_keep_alive = 1

        async with serving(Shop().app(), Impatient) as port:
            assert (await answer(port, self.START, b"12345"))[0] == 405


class TestHandshakesOfAWebSocket:
    HEAD = KEYED + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    KEY = b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

    @pytest.mark.parametrize(
        "rest",
        [
            pytest.param(b"content-length: 2\r\n\r\n{}", id="a body"),
            pytest.param(b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", id="a body in chunks"),
        ],
    )
    async def test_have_no_body(self, port: int, rest: bytes) -> None:
        status, body = await answer(port, self.HEAD + self.KEY + rest)
        assert (status, code_of(body)) == (400, "BAD_USER_INPUT")

    async def test_that_are_refused_write_nothing_to_the_log_but_misuse(
        self, port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        protocol = b"sec-websocket-protocol: graphql-transport-ws\r\n"
        for _ in range(5):
            status, body = await answer(port, self.HEAD + self.KEY + protocol + b"origin: https://evil.example.com\r\n\r\n")
            assert (status, code_of(body)) == (403, "FORBIDDEN")
        assert {record.name for record in caplog.records if record.levelno >= logging.WARNING} <= {"app.web.misuse"}


class TestMessagesThatAreNotWhole:
    async def test_count_against_what_the_process_takes_at_once(self) -> None:
        shop = Shop(with_limits(bytes_in_flight=200_000))
        async with serving(shop.app()) as port, socket_client(port) as first, socket_client(port) as second:
            await first.init()
            await second.init()
            more = asyncio.Event()
            sending = asyncio.create_task(first.connection.send(subscription_in_parts(150_000, more)))
            await settled(sending.done)
            over = asyncio.create_task(second.connection.send(subscription_in_parts(150_000, more)))
            assert (await second.closed())[0] == 1013
            more.set()
            await sending
            with suppress(ConnectionClosed):
                await over
            assert (await first.receive())["type"] == "next"

    async def test_must_become_whole_in_time(self) -> None:
        async with serving(Shop(with_limits(send_timeout=timedelta(seconds=0.3))).app()) as port, socket_client(port) as client:
            await client.init()
            sending = asyncio.create_task(client.connection.send(subscription_in_parts(10, asyncio.Event())))
            assert (await client.closed())[0] == 1008
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def test_whole_ones_may_follow_each_other_for_long(self) -> None:
        async with serving(Shop(with_limits(send_timeout=timedelta(seconds=0.3))).app()) as port, socket_client(port) as client:
            await client.init()
            more = asyncio.Event()
            more.set()
            started = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < started + 0.6:
                await client.connection.send(subscription_in_parts(300_000, more))
                assert (await client.receive())["type"] == "next"
                assert (await client.receive())["type"] == "complete"

    async def test_have_no_end_of_empty_fragments(self, port: int) -> None:
        async with socket_client(port) as client:
            await client.init()
            client.connection.transport.write(b"\x01\x80\0\0\0\0")
            with suppress(ConnectionClosed):
                for _ in range(21):
                    client.connection.transport.write(b"\x00\x80\0\0\0\0" * 500)
                    await (await client.connection.ping())
            assert (await client.closed())[0] == 1009

    async def test_whole_ones_count_until_they_are_read_and_no_longer(self) -> None:
        async with serving(Shop(with_limits(bytes_in_flight=200_000)).app()) as port, socket_client(port) as client:
            await client.init()
            for pad in ("x" * 150_000, "x" * 150_000, "\n" * 70_000, "x" * 150_000):
                await client.subscribe("a", "{ hello }", {"pad": pad})
                assert (await client.receive())["type"] == "next"
                assert (await client.receive())["type"] == "complete"
            await client.subscribe("b", "{ hello }", {"pad": "x" * 200_001})
            assert (await client.closed())[0] == 1013


class TestFloods:
    @pytest.mark.parametrize("frame", [b"\x89\x80\0\0\0\0", b"\x8a\x80\0\0\0\0", b"\x81\x8f\0\0\0\0" + b'{"type":"pong"}'])
    async def test_of_small_frames_end_the_socket(self, port: int, frame: bytes) -> None:
        async with socket_client(port) as client:
            await client.init()
            client.connection.transport.write(frame * 40_000)
            assert (await client.closed())[0] == 1008

    async def test_of_pings_fill_no_memory_where_no_one_reads_the_pongs(self) -> None:
        protocols: list[WebSocketProtocol] = []

        class Protocol(WebSocketProtocol):
            def handle_connect(self, event: Request) -> None:
                super().handle_connect(event)
                protocols.append(self)

        async with serving(Shop().app(), ws=Protocol) as port, socket_client(port) as client:
            await client.init()
            client.connection.transport.pause_reading()
            ping = b"\x89\xfd\0\0\0\0" + b"x" * 125
            async with asyncio.timeout(30):
                while protocols[0].writable.is_set():
                    client.connection.transport.write(ping * 500)
                    await asyncio.sleep(0.002)
            before = protocols[0].transport.get_write_buffer_size()
            for _ in range(20):
                client.connection.transport.write(ping * 500)
                await asyncio.sleep(0.002)
            assert protocols[0].transport.get_write_buffer_size() <= before
            client.connection.transport.resume_reading()
            await client.send({"type": "ping"})
            assert await client.receive() == {"type": "pong"}

    async def test_of_requests_that_wait_for_no_answer(self, port: int, caplog: pytest.LogCaptureFixture) -> None:
        assert await answer(port, (START + b"\r\n") * 2_000) == (0, {})
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write((KEYED + b"accept: application/json\r\n\r\n") * 16)
            for _ in range(16):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
            writer.transport.abort()
        assert "Traceback" not in caplog.text


async def test_an_offer_of_http_2_is_ignored(port: int) -> None:
    body = b'{"query": "{ hello }"}'
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    head = KEYED.replace(b"GET", b"POST") + offer + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for chunks in ((head + body,), (head, body)):
            for chunk in chunks:
                writer.write(chunk)
                await asyncio.sleep(0)
            found = await reader.readuntil(b"\r\n\r\n")
            assert found.startswith(b"HTTP/1.1 200")
            size = int(found.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert json.loads(await reader.readexactly(size))["data"]
        writer.transport.abort()


class TestReadersThatTakeNothing:
    """Their key is taken back meanwhile: what is left to tell them must not keep the connection for ever."""

    async def test_of_events(self) -> None:
        shop, lost = Shop(), asyncio.Event()

        class Protocol(HttpProtocol):
            stall_seconds = 1.5

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                lost.set()

        async with serving(shop.app(), Protocol) as port, stream_client(port) as client:
            await client.start("subscription { large }")
            await settled(lambda: shop.board.produced)
            del shop.keys.known[KEY]
            await dropped(lost)
        assert shop.board.open_sources == 0

    async def test_of_frames(self) -> None:
        shop, lost = Shop(), asyncio.Event()

        class Protocol(WebSocketProtocol):
            stall_seconds = 1.5

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                lost.set()

        async with serving(shop.app(), ws=Protocol) as port, socket_client(port, max_queue=1) as client:
            await client.init()
            await client.subscribe("a", "subscription { large }")
            await settled(lambda: shop.board.produced)
            del shop.keys.known[KEY]
            await dropped(lost)
            client.connection.transport.abort()
        assert shop.board.open_sources == 0

    async def test_of_one_answer(self) -> None:
        lost = asyncio.Event()

        class Protocol(HttpProtocol):
            stall_seconds = 0.5

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                lost.set()

        async with serving(Shop().app(), Protocol) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            body = json.dumps({"query": "query($n: String) { hello(name: $n) }", "variables": {"n": "x" * 20_000_000}}).encode()
            head = KEYED.replace(b"GET", b"POST") + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            await reader.readexactly(1)
            await dropped(lost)
            writer.transport.abort()

    async def test_but_not_of_one_that_is_read_slowly(self) -> None:
        """The system's own buffer takes more only once a large part of it is empty, which is long after the last look."""
        lost = asyncio.Event()

        class Protocol(HttpProtocol):
            stall_seconds = 3.0

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                lost.set()

        async with serving(Shop().app(), Protocol) as port:
            small = socket.socket()
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
            small.connect(("127.0.0.1", port))
            reader, writer = await asyncio.open_connection(sock=small)
            body = json.dumps({"query": "query($n: String) { hello(name: $n) }", "variables": {"n": "x" * 20_000_000}}).encode()
            head = KEYED.replace(b"GET", b"POST") + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            for _ in range(80):
                await reader.readexactly(25_000)
                await asyncio.sleep(0.1)
            assert not lost.is_set()
            writer.transport.abort()
            await dropped(lost)


async def dropped(lost: asyncio.Event) -> None:
    async with asyncio.timeout(8):
        await lost.wait()
