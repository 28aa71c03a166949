"""One request is one request: no body is run as the next one on its connection, however it is cut into segments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.web.protocols import HEAD_BYTES, MAX_PIPELINED, HttpProtocol
from tests.app.graphql.serving import eventually
from tests.app.web.recording import NEXT, Recording, answers, recording, segmentations

pytestmark = pytest.mark.anyio

HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
START = b"POST /first HTTP/1.1\r\nhost: x\r\n"
LENGTH = b"content-length: %d\r\n\r\n" % len(HIDDEN)
ENDS = [pytest.param(LENGTH + HIDDEN, id="length"), pytest.param(b"transfer-encoding: chunked\r\n\r\n" + CHUNKED, id="chunked")]
REFUSED = [
    b"foo",
    b"TLS/1.0",
    b"HTTP/2.0",
    b"h2",
    b"h2c, foo",
    b"foo, h2c",
    b"h2c, websocket",
    b"websocket, foo",
    b"websocket/13",
    b"websocketx",
    b"h2c\r\nupgrade: foo",
    b"websocket\r\nUPGRADE: websocket",
]
IGNORED = [b"h2c", b"H2C", b" h2c\t", b"h2c\r\nhttp2-settings: AAMAAABkAAQAAP__", b"h2c, h2c", b"h2c\r\nupgrade: h2c", b"", b","]


@pytest.fixture
async def server() -> AsyncIterator[Recording]:
    async with recording() as app:
        yield app


def upgrade(protocol: bytes, connection: bytes = b"Upgrade, HTTP2-Settings") -> bytes:
    return START + b"Connection: %b\r\nUpgrade: %b\r\n" % (connection, protocol)


async def is_refused(server: Recording, data: bytes, *, every: bool = False) -> None:
    """In whatever segments: one answer, 400, the connection closed, and the application heard of nothing."""
    for segments in segmentations(data, every=every):
        found = await server.exchange(*segments)
        assert [status for status, _ in found] == [400], segments
        assert server.seen == []


class TestAnUpgradeThatIsNotTaken:
    @pytest.mark.parametrize("end", ENDS)
    @pytest.mark.parametrize("protocol", REFUSED)
    async def test_is_refused(self, server: Recording, protocol: bytes, end: bytes) -> None:
        await is_refused(server, upgrade(protocol) + end)

    @pytest.mark.parametrize("protocol", [b"foo", b"h2c, foo"])
    async def test_is_refused_however_it_is_cut(self, server: Recording, protocol: bytes) -> None:
        await is_refused(server, upgrade(protocol) + LENGTH + HIDDEN, every=True)

    @pytest.mark.parametrize(
        "connection", [b"upgrade", b"keep-alive, UPGRADE", b"upgrade\r\nconnection: keep-alive", b"close, upgrade"]
    )
    async def test_is_refused_however_the_connection_names_it(self, server: Recording, connection: bytes) -> None:
        await is_refused(server, upgrade(b"foo", connection) + LENGTH + HIDDEN)

    async def test_is_refused_with_http_1_0(self, server: Recording) -> None:
        await is_refused(server, upgrade(b"foo").replace(b"1.1", b"1.0") + LENGTH + HIDDEN)

    async def test_is_refused_without_a_body(self, server: Recording) -> None:
        await is_refused(server, upgrade(b"foo") + b"\r\n" + HIDDEN)

    @pytest.mark.parametrize("target", [b"x:443", b"/first", b"http://x/first"])
    async def test_is_refused_as_connect(self, server: Recording, target: bytes) -> None:
        await is_refused(server, START.replace(b"POST /first", b"CONNECT " + target) + LENGTH + HIDDEN, every=target == b"x:443")

    async def test_names_its_reason(self, server: Recording) -> None:
        [(_, content)] = await server.exchange(upgrade(b"foo") + LENGTH + HIDDEN)
        assert content == {
            "errors": [{"message": "the only protocol to upgrade to is websocket", "extensions": {"code": "BAD_USER_INPUT"}}]
        }


class TestAnUpgradeThatIsIgnored:
    """Java's HttpClient and curl offer HTTP/2 with each request; nginx's usual lines say `connection: upgrade` with each."""

    EXPECTED = (("POST", "/first", HIDDEN), ("GET", "/next", b""))

    async def is_served(self, server: Recording, data: bytes, *, every: bool = False) -> None:
        for segments in segmentations(data + NEXT, every=every):
            found = await server.exchange(*segments)
            assert [status for status, _ in found] == [200, 200], segments
            assert tuple(server.seen) == self.EXPECTED
            server.seen.clear()

    @pytest.mark.parametrize("end", ENDS)
    @pytest.mark.parametrize("protocol", IGNORED)
    async def test_has_its_body_read(self, server: Recording, protocol: bytes, end: bytes) -> None:
        await self.is_served(server, upgrade(protocol) + end)

    async def test_has_its_body_read_however_it_is_cut(self, server: Recording) -> None:
        await self.is_served(server, upgrade(IGNORED[3]) + LENGTH + HIDDEN, every=True)

    @pytest.mark.parametrize("end", [pytest.param(b"\r\n", id="no body"), ENDS[0]])
    @pytest.mark.parametrize(
        "head",
        [
            upgrade(b"h2c", b"close, upgrade"),
            upgrade(b"h2c", b"Upgrade, HTTP2-Settings, close"),
            upgrade(b"h2c", b"upgrade\r\nconnection: close"),
            upgrade(b"h2c", b"close\r\nconnection: upgrade"),
            upgrade(b"h2c", b"upgrade").replace(b"1.1", b"1.0"),
        ],
    )
    async def test_is_answered_on_a_connection_that_closes(self, server: Recording, head: bytes, end: bytes) -> None:
        for segments in (*segmentations(head + end), [head + end + NEXT]):
            assert [status for status, _ in await server.exchange(*segments)] == [200], segments
            assert server.seen == [("POST", "/first", HIDDEN if HIDDEN in end else b"")]
            server.seen.clear()

    @pytest.mark.parametrize("protocol", [*REFUSED, b"websocket"])
    @pytest.mark.parametrize(
        "connection", [b"keep-alive", b"xupgrade", b"upgrade-x", b"keep-alive\r\nproxy-connection: upgrade", b'"upgrade"']
    )
    async def test_is_one_that_the_connection_does_not_name(self, server: Recording, connection: bytes, protocol: bytes) -> None:
        await self.is_served(server, upgrade(protocol, connection) + LENGTH + HIDDEN)

    async def test_is_a_connection_that_names_none(self, server: Recording) -> None:
        await self.is_served(server, START + b"connection: upgrade\r\n" + LENGTH + HIDDEN, every=True)

    async def test_reaches_the_application_as_it_came_but_for_the_offer(self, server: Recording) -> None:
        await server.exchange(upgrade(b"h2c") + b"x-a: \xff b \r\nx-a:\r\n" + LENGTH + HIDDEN, NEXT)
        connection, length = (b"connection", b"Upgrade, HTTP2-Settings"), (b"content-length", b"%d" % len(HIDDEN))
        assert server.fields[0] == [(b"host", b"x"), connection, (b"x-a", b"\xff b "), (b"x-a", b""), length]

    async def test_counts_among_the_requests_that_wait(self, server: Recording) -> None:
        offer = b"GET /held HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
        found = await server.exchange(offer * MAX_PIPELINED + NEXT)
        assert len(found) == MAX_PIPELINED + 1
        server.gate.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(offer * 2 * (MAX_PIPELINED + 2))
        async with asyncio.timeout(10):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        writer.transport.abort()


class TestHandshakesOfAWebSocket:
    HEAD = (
        b"GET /socket HTTP/1.1\r\nhost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )

    async def test_are_taken_however_they_are_cut(self, server: Recording) -> None:
        for segments in segmentations(self.HEAD + b"\r\n", every=True):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            for segment in segments:
                writer.write(segment)
                await asyncio.sleep(0)
            async with asyncio.timeout(10):
                assert b" 101 " in await reader.readline(), segments
                await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(9) == b"\x81\x07/socket"
            writer.transport.abort()

    @pytest.mark.parametrize("end", [b"\r\n" + HIDDEN, LENGTH + HIDDEN])
    async def test_followed_by_more_are_refused(self, server: Recording, end: bytes) -> None:
        [(status, _)] = await server.exchange(self.HEAD + end)
        assert (status, server.seen) == (400, [])

    async def test_with_a_body_that_follows_are_refused(self, server: Recording) -> None:
        [(status, _)] = await server.exchange(self.HEAD + LENGTH, HIDDEN)
        assert (status, server.seen) == (400, [])

    @pytest.mark.parametrize("changed", [(b"GET", b"POST"), (b"-key", b"-cup"), (b"version: 13", b"version: 12")])
    async def test_that_are_none_close_the_connection(self, server: Recording, changed: tuple[bytes, bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(self.HEAD.replace(*changed) + b"\r\n")
        async with asyncio.timeout(10):
            said = await reader.read()
        assert int(said.split(b" ")[1]) in {400, 405, 426}
        assert said.count(b"HTTP/1.1 ") == 1
        writer.transport.abort()

    async def test_wait_for_no_earlier_answer(self, server: Recording) -> None:
        first = b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n"
        found = await server.exchange(first + self.HEAD + b"\r\n", until=lambda: server.seen)
        assert [status for status, _ in found] == [200, 400]


class TestAHeadThatCanBeReadInTwoWays:
    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param(b"content-length: 5\r\ntransfer-encoding: chunked\r\n", id="length and chunked"),
            pytest.param(b"transfer-encoding: chunked\r\ncontent-length: 5\r\n", id="chunked and length"),
            pytest.param(b"content-length: 5\r\ncontent-length: 5\r\n", id="two lengths"),
            pytest.param(b"content-length: 5\r\ncontent-length: 6\r\n", id="two different lengths"),
            pytest.param(b"content-length: 5, 5\r\n", id="a list of lengths"),
            pytest.param(b"content-length: +5\r\n", id="a length with a sign"),
            pytest.param(b"content-length: 0x5\r\n", id="a hexadecimal length"),
            pytest.param(b"content-length: 5 5\r\n", id="a length with a space in it"),
            pytest.param(b"content-length:\r\n", id="an empty length"),
            pytest.param(b"content-length: 99999999999999999999\r\n", id="a length too large"),
            pytest.param(b"transfer-encoding: identity\r\n", id="identity"),
            pytest.param(b"transfer-encoding: chunked, identity\r\n", id="chunked, then identity"),
            pytest.param(b"transfer-encoding: gzip, chunked\r\n", id="gzip, then chunked"),
            pytest.param(b"transfer-encoding: , chunked\r\n", id="nothing, then chunked"),
            pytest.param(b"transfer-encoding: chunked,\r\n", id="chunked, then nothing"),
            pytest.param(b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n", id="identity and chunked"),
            pytest.param(b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", id="chunked twice"),
            pytest.param(b"transfer-encoding: xchunked\r\n", id="xchunked"),
            pytest.param(b"transfer-encoding: chunked;q=1\r\n", id="chunked with a parameter"),
            pytest.param(b'transfer-encoding: "chunked"\r\n', id="chunked in quotes"),
            pytest.param(b"transfer-encoding: \x0bchunked\r\n", id="chunked after a control character"),
            pytest.param(b"transfer-encoding:\r\n chunked\r\n", id="a folded transfer-encoding"),
            pytest.param(b"x-a: b\r\n c\r\n", id="a folded field"),
            pytest.param(b"content-length : 5\r\n", id="a space before the colon"),
            pytest.param(b"content-length\t: 5\r\n", id="a tab before the colon"),
            pytest.param(b"content-length: 5\n", id="a line that ends with LF"),
            pytest.param(b"x-a: b\rcontent-length: 5\r\n", id="a CR in a line"),
            pytest.param(b"x-a: b\0\r\n", id="a NUL"),
            pytest.param(b": b\r\n", id="no name"),
            pytest.param(b"x-a\r\n", id="no colon"),
            pytest.param(b"host: y\r\n", id="two hosts"),
        ],
    )
    async def test_is_refused(self, server: Recording, fields: bytes) -> None:
        await is_refused(server, START + fields + b"\r\n0\r\n\r\n" + HIDDEN)

    @pytest.mark.parametrize(
        "version", [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/1.1 ", b"http/1.1", b"HTTP/1.1\n"]
    )
    async def test_is_refused_with_a_chunked_body_and_another_version(self, server: Recording, version: bytes) -> None:
        head = START.replace(b"HTTP/1.1", version) + b"connection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n"
        await is_refused(server, head + CHUNKED)

    @pytest.mark.parametrize("head", [b"GET /first\r\n\r\n", b"GET /first HTTP/2.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
    async def test_is_refused_in_another_version(self, server: Recording, head: bytes) -> None:
        await is_refused(server, head + HIDDEN)

    async def test_is_not_one_with_the_whole_address(self, server: Recording) -> None:
        head = START.replace(b"/first", b"http://other/first") + b"connection: close\r\n" + LENGTH + HIDDEN
        assert await server.exchange(head) == [(200, {"path": "/first", "body": HIDDEN.decode()})]

    async def test_is_not_one_of_http_1_0_which_is_closed(self, server: Recording) -> None:
        head = START.replace(b"1.1", b"1.0") + b"connection: keep-alive\r\n" + LENGTH + HIDDEN
        assert await server.exchange(head + HIDDEN) == [(200, {"path": "/first", "body": HIDDEN.decode()})]
        assert server.seen == [("POST", "/first", HIDDEN)]


class TestABody:
    HEAD = START + b"transfer-encoding: chunked\r\n\r\n"

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"1\na\r\n0\r\n\r\n", id="a size that ends with LF"),
            pytest.param(b"1\r\na\n0\r\n\r\n", id="content that ends with LF"),
            pytest.param(b"1;x\na\r\n0\r\n\r\n", id="an extension that ends with LF"),
            pytest.param(b"1 \r\na\r\n0\r\n\r\n", id="a space after the size"),
            pytest.param(b"0x1\r\na\r\n0\r\n\r\n", id="a size with 0x"),
            pytest.param(b"-1\r\na\r\n0\r\n\r\n", id="a negative size"),
            pytest.param(b"\r\na\r\n0\r\n\r\n", id="no size"),
            pytest.param(b"fffffffffffffffff\r\na\r\n0\r\n\r\n", id="a size too large"),
            pytest.param(b"1\r\nab0\r\n\r\n", id="too much content"),
            pytest.param(b"1\r\na\r\n0\r\nx: y\n\r\n", id="a field after it that ends with LF"),
            pytest.param(b"1\r\na\r\n0\r\ncontent-length: 9\r\n\r\n", id="a length after it"),
            pytest.param(b"1\r\na\r\n0\r\n x: y\r\n\r\n", id="a space before a field after it"),
        ],
    )
    async def test_with_chunks_in_doubt_is_refused(self, server: Recording, body: bytes) -> None:
        await is_refused(server, self.HEAD + body + HIDDEN)

    async def test_that_is_broken_ends_its_request(self, server: Recording) -> None:
        assert [status for status, _ in await server.exchange(self.HEAD + b"1\r\na\r\n", b"nonsense\r\n")] == [400]
        await eventually(lambda: server.ended_early)
        assert server.seen == []

    async def test_that_is_broken_after_the_answer_began_gets_no_second_one(self, server: Recording) -> None:
        head = self.HEAD.replace(b"/first", b"/begun")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head + b"1\r\na\r\n")
        async with asyncio.timeout(10):
            assert (await reader.readuntil(b"12")).startswith(b"HTTP/1.1 200")
            writer.write(b"nonsense\r\n")
            assert await reader.read() == b""
        writer.transport.abort()

    async def test_that_is_broken_after_the_answer_gets_no_second_one(self, server: Recording) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(self.HEAD.replace(b"/first", b"/early") + b"1\r\na\r\n")
        async with asyncio.timeout(10):
            await reader.readuntil(b"}")
            writer.write(b"nonsense\r\n")
            assert await reader.read() == b""
        writer.transport.abort()

    async def test_that_comes_after_the_answer_is_no_request(self, server: Recording) -> None:
        head = START.replace(b"/first", b"/early") + b"content-length: %d\r\n\r\n" % (2 * len(HIDDEN))
        found = await server.exchange(head, HIDDEN, HIDDEN, NEXT)
        assert [status for status, _ in found] == [200, 200]
        assert [path for _, path, _ in server.seen] == ["/early", "/next"]

    async def test_leaves_an_upgrade_after_it_refused(self, server: Recording) -> None:
        """The rest of a body whose request is answered is followed by the next head in the same segment."""
        head = START.replace(b"/first", b"/early") + b"content-length: 5\r\n\r\n"
        found = await server.exchange(head, b"12345" + upgrade(b"foo") + LENGTH, HIDDEN)
        assert [status for status, _ in found] == [200, 400]

    async def test_adds_no_field_to_its_head(self, server: Recording) -> None:
        fields = b"authorization: Bearer other\r\nx-forwarded-for: 192.0.2.1\r\nexpect: 100-continue\r\n"
        for segments in segmentations(self.HEAD + b"1\r\na\r\n0\r\n" + fields + b"\r\n" + NEXT):
            assert [status for status, _ in await server.exchange(*segments)] == [200, 200]
            assert server.fields[-2] == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]

    @pytest.mark.parametrize("start", [b"1;x=", b"1\r\na\r\n0\r\nx: "])
    async def test_has_no_end_of_framing(self, server: Recording, start: bytes) -> None:
        found = await server.exchange(self.HEAD + start, *[b"a" * 10_000] * (HEAD_BYTES // 10_000 + 1))
        assert [status for status, _ in found] == [400]
        assert server.seen == []

    async def test_may_have_many_small_chunks(self, server: Recording) -> None:
        chunks = [b"1;x=y\r\na\r\n" * 1_000] * 20
        found = await server.exchange(self.HEAD, *chunks, b"0\r\n\r\n" + NEXT)
        assert [status for status, _ in found] == [200, 200]
        assert server.seen[0] == ("POST", "/first", b"a" * 20_000)


class TestAClientThatAsksBeforeItSendsItsBody:
    EARLY = START.replace(b"/first", b"/early") + b"expect: 100-continue\r\n" + LENGTH

    async def test_is_answered_and_closed_if_the_body_is_not_wanted(self, server: Recording) -> None:
        """It may send the body or the next request now."""
        for segments in segmentations(self.EARLY):
            assert [status for status, _ in await server.exchange(*segments)] == [200]
        assert [path for _, path, _ in server.seen] == ["/early"] * len(segmentations(self.EARLY))

    async def test_keeps_its_connection_if_the_body_is_read(self, server: Recording) -> None:
        head = START + b"expect: 100-continue\r\n" + LENGTH
        found = await server.exchange(head, HIDDEN, NEXT)
        assert [status for status, _ in found] == [100, 200, 200]


class TestARefusal:
    HELD = b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n"

    @pytest.mark.parametrize(
        "wrong",
        [
            pytest.param(upgrade(b"foo") + LENGTH + HIDDEN, id="an upgrade"),
            pytest.param(b"nonsense\r\n\r\n" + HIDDEN, id="no HTTP"),
            pytest.param(TestABody.HEAD + b"1\r\na\r\nnonsense\r\n" + HIDDEN, id="a broken body"),
        ],
    )
    async def test_waits_for_the_answers_before_it(self, server: Recording, wrong: bytes) -> None:
        found = await server.exchange(self.HELD + HIDDEN + wrong, HIDDEN, until=lambda: server.seen)
        assert [status for status, _ in found] == [200, 200, 400]
        assert [path for _, path, _ in server.seen] == ["/held", "/hidden"]


class TestAnIdleConnection:
    async def test_is_not_kept_by_empty_lines(self) -> None:
        class Impatient(HttpProtocol):
            def __init__(self, *given: object, **options: object) -> None:
                super().__init__(*given, **options)  # type: ignore[arg-type]  # passed on as given
                self.timeout_keep_alive = 1

        async with recording(Impatient) as server:
            found = await server.exchange(HIDDEN, b"\r\n", b"\r\n")
        assert [status for status, _ in found] == [200]


TOKENS = st.sampled_from([b"upgrade", b"keep-alive", b"h2c", b"websocket", b"foo", b"TLS/1.0", b"chunked", b"identity", b"33"])
NAMES = st.sampled_from(
    [b"Connection", b"upgrade", b"UPGRADE", b"Transfer-Encoding", b"content-length", b"x-a", b"Expect", b"host"]
)
FIELDS = st.lists(st.tuples(NAMES, st.lists(TOKENS, max_size=2).map(b", ".join)), max_size=5)


async def _whole_and_in_segments(data: bytes, cuts: list[int]) -> None:
    async with recording() as server:
        whole = await server.exchange(data)
        seen = list(server.seen)
        server.seen.clear()
        places = [0, *sorted({cut % len(data) for cut in cuts} - {0}), len(data)]
        pieces = [data[start:end] for start, end in pairwise(places)]
        assert await server.exchange(*pieces) == whole
        assert server.seen == seen
        assert len(whole) >= len(seen)


class TestSegments:
    @settings(max_examples=150, deadline=None)
    @given(fields=FIELDS, body=st.sampled_from([b"", HIDDEN, CHUNKED]), cuts=st.lists(st.integers(0, 400), max_size=6))
    def test_change_nothing(self, fields: list[tuple[bytes, bytes]], body: bytes, cuts: list[int]) -> None:
        head = b"POST /first HTTP/1.1\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"
        if b"websocket" not in head:
            asyncio.run(_whole_and_in_segments(head + body + NEXT, cuts))


def test_answers_are_distinguished() -> None:
    assert answers(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 400 Bad\r\n\r\n") == [(200, {}), (400, None)]
    with pytest.raises(AssertionError, match="cut short"):
        answers(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{")
