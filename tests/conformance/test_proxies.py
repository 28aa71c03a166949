"""Behind the proxies of the field, whose clients share connections: one answer a request, and each client gets its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.app.graphql.serving import eventually, serving, socket_client, stream_client
from tests.app.graphql.shop import Shop
from tests.app.web.recording import Recording, answers, recording, segmentations
from tests.app.web.test_smuggling import CHUNKED, HIDDEN, LENGTH, START, upgrade
from tests.proxies import start_proxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

NGINX = """
    upstream app { server 127.0.0.1:PORT; keepalive 1; }
    server {
        listen 127.0.0.1:LISTEN;
        location / {
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_buffering SWITCH;
            proxy_request_buffering SWITCH;
        }
    }
"""
HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    NO option http-buffer-request
    NO option http-no-delay
    option http-server-close
    no option http-server-close
frontend front
    bind 127.0.0.1:LISTEN
    default_backend app
backend app
    http-reuse always
    server one 127.0.0.1:PORT pool-max-conn 1
"""
PROXIES = [
    pytest.param("nginx", NGINX.replace("SWITCH", "on"), id="nginx that buffers"),
    pytest.param("nginx", NGINX.replace("SWITCH", "off"), id="nginx that does not buffer"),
    pytest.param("haproxy", HAPROXY.replace("NO", ""), id="HAProxy that buffers"),
    pytest.param("haproxy", HAPROXY.replace("NO", "no"), id="HAProxy that does not buffer"),
]
REFUSED = [b"foo", b"h2c, foo", b"websocket, foo", b"h2c\r\nupgrade: foo"]
IGNORED = [b"h2c", b"H2C", b"h2c\r\nhttp2-settings: AAMAAABkAAQAAP__", b"h2c, h2c"]
TAKING = b"POST /hidden HTTP/1.1\r\nhost: x\r\ncontent-length: 60\r\n\r\n"
PLAIN = HIDDEN.replace(b"/hidden", b"/plain.")
LATE = b"\r\n" * 200_000 + TAKING
"""More than is read at once; an empty line before a request is skipped."""
OTHER = b"GET /other HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\nconnection: close\r\n\r\n"


async def client(port: int, *segments: bytes, pause: float = 0.0) -> list[tuple[int, object]]:
    """What one client of the proxy is answered until the proxy closes, or nothing more comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    try:
        for segment in segments:
            writer.write(segment)
            await asyncio.sleep(pause)
        async with asyncio.timeout(5):
            while not _is_last(said):
                more = await reader.read(65_536)
                if not more:
                    break
                said += more
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return answers(said)


def _is_last(said: bytes) -> bool:
    try:
        return bool(answers(said))
    except AssertionError:
        return False


@asynccontextmanager
async def behind(name: str, folder: Path, text: str, app: Recording) -> AsyncIterator[int]:
    with start_proxy(name, folder, text.replace("PORT", str(app.port))) as port:
        yield port


async def attack(port: int, app: Recording, segments: Sequence[bytes], pause: float) -> list[tuple[int, object]]:
    """The attacker's answers, after two others have asked beside and after it on the same connections to the server."""
    attacker = asyncio.create_task(client(port, *segments, pause=pause))
    beside = await client(port, OTHER)
    found = await attacker
    after = [await client(port, OTHER) for _ in range(2)]
    for theirs in (beside, *after):
        assert theirs == [(200, {"path": "/other", "body": ""})], segments
    assert [path for _, path, _ in app.seen].count("/other") == 3
    assert "/hidden" not in [path for _, path, _ in app.seen], segments
    return found


@pytest.mark.parametrize(("name", "text"), PROXIES)
class TestTwoClients:
    @pytest.mark.parametrize("hidden", [HIDDEN, TAKING])
    @pytest.mark.parametrize("protocol", REFUSED)
    async def test_of_whom_one_hides_a_request(
        self, name: str, text: str, protocol: bytes, hidden: bytes, tmp_path: Path
    ) -> None:
        """In whatever segments: its own answer is the only one that changes."""
        data = upgrade(protocol) + b"content-length: %d\r\n\r\n" % len(hidden) + hidden
        async with recording() as app, behind(name, tmp_path, text, app) as port:
            for segments in segmentations(data):
                found = await attack(port, app, segments, 0.001)
                if (
                    name == "haproxy" or b"\r\n" in protocol
                ):  # it passes no upgrade on with a body, and nginx the first line alone
                    assert found == [(200, {"path": "/first", "body": hidden.decode()})]
                else:
                    assert [status for status, _ in found] == [400]
                    assert [path for _, path, _ in app.seen] == ["/other"] * 3
                app.seen.clear()

    async def test_of_whom_one_hides_more_than_is_read_at_once(self, name: str, text: str, tmp_path: Path) -> None:
        async with recording() as app, behind(name, tmp_path, text, app) as port:
            data = upgrade(b"foo") + b"content-length: %d\r\n\r\n" % len(LATE) + LATE
            found = await attack(port, app, [data], 0.0)
            expected = [(200, {"path": "/first", "body": LATE.decode()})] if name == "haproxy" else []
            assert [each for each in found if each[0] == 200] == expected

    @pytest.mark.parametrize("protocol", REFUSED[:-1])
    async def test_of_whom_one_asks_for_an_upgrade_without_a_body(
        self, name: str, text: str, protocol: bytes, tmp_path: Path
    ) -> None:
        async with recording() as app, behind(name, tmp_path, text, app) as port:
            for end in (b"\r\n", b"\r\n" + PLAIN):
                found = await attack(port, app, [upgrade(protocol) + end], 0.01)
                assert [status for status, _ in found][:1] == [400]
                app.seen.clear()

    @pytest.mark.parametrize("protocol", IGNORED)
    @pytest.mark.parametrize("end", [LENGTH + HIDDEN, b"transfer-encoding: chunked\r\n\r\n" + CHUNKED])
    async def test_of_whom_one_offers_http_2(self, name: str, text: str, protocol: bytes, end: bytes, tmp_path: Path) -> None:
        async with recording() as app, behind(name, tmp_path, text, app) as port:
            for segments in segmentations(upgrade(protocol) + end):
                found = await attack(port, app, segments, 0.001)
                assert found == [(200, {"path": "/first", "body": HIDDEN.decode()})]
                app.seen.clear()

    async def test_of_whom_one_offers_http_2_over_http_1_0(self, name: str, text: str, tmp_path: Path) -> None:
        """nginx speaks HTTP/1.0 if it is not configured to speak 1.1; then the connection is closed after the answer."""
        old = text.replace("proxy_http_version 1.1;", "")
        async with recording() as app, behind(name, tmp_path, old, app) as port:
            for end in (b"\r\n", LENGTH + HIDDEN):
                [(status, _)] = await attack(port, app, [upgrade(b"h2c") + end], 0.001)
                assert status == 200
                app.seen.clear()

    async def test_of_whom_one_says_connection_upgrade_alone(self, name: str, text: str, tmp_path: Path) -> None:
        async with recording() as app, behind(name, tmp_path, text, app) as port:
            found = await attack(port, app, [START + b"connection: upgrade\r\n" + LENGTH, HIDDEN], 0.05)
            assert found == [(200, {"path": "/first", "body": HIDDEN.decode()})]

    @pytest.mark.parametrize(
        "head",
        [
            START + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            START + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
            START + b"transfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n",
            START + b"content-length: 5\r\ncontent-length: 38\r\n\r\n12345",
            START.replace(b"POST /first", b"CONNECT x:443") + LENGTH,
            START.replace(b"/first", b"/early") + b"expect: 100-continue\r\n" + LENGTH,
            START.replace(b"/first", b"/early") + b"expect: y 100-continue\r\n" + LENGTH,
            START + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\ncontent-length: 0\r\n\r\n",
        ],
    )
    async def test_of_whom_one_leaves_its_end_in_doubt(self, name: str, text: str, head: bytes, tmp_path: Path) -> None:
        """The proxy may refuse it, close it, or make it plain; no other client notices."""
        async with recording() as app, behind(name, tmp_path, text, app) as port:
            for segments in ([head + PLAIN], [head, PLAIN]):
                await attack(port, app, segments, 0.01)
                app.seen.clear()

    async def test_who_subscribe_over_websockets_and_events(self, name: str, text: str, tmp_path: Path) -> None:
        shop = Shop()
        async with serving(shop.app()) as server:
            with start_proxy(name, tmp_path, text.replace("PORT", str(server))) as port:
                await subscribe(shop, port)


async def subscribe(shop: Shop, port: int) -> None:
    """Each event reaches both clients while their streams go on."""
    async with socket_client(port) as socket, stream_client(port) as stream:
        await socket.init()
        await socket.subscribe("a", "subscription { buy { number } }")
        await stream.start("subscription { buy { number } }")
        assert stream.status == 200
        await eventually(lambda: len(shop.board.topic) == 2)
        for number in range(3):
            shop.board.publish(number)
            assert await socket.receive() == {"id": "a", "type": "next", "payload": {"data": {"buy": {"number": number}}}}
            assert await stream.event() == ("next", {"data": {"buy": {"number": number}}})


class TestWithTheParserAsItComes:
    async def test_the_next_clients_request_is_taken(self, tmp_path: Path) -> None:
        """What the tests above would show: the hidden body is run, and the head of the next client's request is its content."""
        text = NGINX.replace("SWITCH", "on")
        async with recording(HttpToolsProtocol) as app, behind("nginx", tmp_path, text, app) as port:
            data = upgrade(b"foo").replace(b"/first", b"/held") + b"content-length: %d\r\n\r\n" % len(LATE) + LATE
            attacker = asyncio.create_task(client(port, data))
            await eventually(lambda: app.received > len(LATE))
            app.gate.set()
            await attacker
            theirs = await client(port, OTHER)
        assert [path for _, path, _ in app.seen] == ["/held", "/hidden"]
        assert app.seen[1][2].startswith(b"GET /other HTTP/1.1")
        assert theirs != [(200, {"path": "/other", "body": ""})]
