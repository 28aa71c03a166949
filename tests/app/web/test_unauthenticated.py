"""Which connections without a good key are dropped, by the rule and on a real server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from app.web.client_address import TrustedProxies
from app.web.unauthenticated import SILENT_SECONDS, STATE, UnauthenticatedConnections, network_of
from tests.app.graphql.serving import eventually, serving, socket_client
from tests.app.graphql.shop import KEY, Shop
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

HERE = "192.0.2.1"
ELSEWHERE = "198.51.100.1"
PROXY = "10.0.0.1"


@dataclass(eq=False, slots=True)
class Socket:
    aborted: bool = False

    def abort(self) -> None:
        self.aborted = True


@dataclass(slots=True)
class Door:
    limit: int = 1000
    per_address: int = 1000
    clock: ManualClock = field(default_factory=ManualClock)
    unauthenticated: UnauthenticatedConnections = field(init=False)

    def __post_init__(self) -> None:
        is_proxy = TrustedProxies([PROXY]).trusts
        self.unauthenticated = UnauthenticatedConnections(
            self.limit, self.per_address, is_proxy=is_proxy, now=self.clock.monotonic
        )

    def connect(self, count: int, address: str = HERE, *, silent_seconds: float = 0.0) -> list[Socket]:
        found = [Socket() for _ in range(count)]
        for each in found:
            self.unauthenticated.join(each, address)
        self.clock.move(silent_seconds)
        return found


def dropped(sockets: list[Socket]) -> list[bool]:
    return [each.aborted for each in sockets]


class TestInAll:
    def test_the_oldest_goes_first(self) -> None:
        door = Door(limit=3)
        first, second = door.connect(3), door.connect(2, ELSEWHERE)
        assert (dropped(first), dropped(second)) == ([True, True, False], [False, False])
        assert len(door.unauthenticated) == 3

    def test_one_that_sends_requests_goes_after_the_silent_ones(self) -> None:
        door = Door(limit=3)
        first = door.connect(3)
        door.unauthenticated.heard(first[0])
        door.connect(2)
        assert dropped(first) == [False, True, True]

    def test_one_that_showed_a_good_key_is_never_dropped(self) -> None:
        door = Door(limit=2, per_address=1)
        known = door.connect(1, silent_seconds=10 * SILENT_SECONDS)
        door.unauthenticated.leave(known[0])
        door.unauthenticated.heard(known[0])
        door.connect(10, silent_seconds=10 * SILENT_SECONDS)
        door.connect(10)
        assert dropped(known) == [False]

    def test_proxies_count(self) -> None:
        door = Door(limit=3)
        door.connect(5, PROXY)
        assert len(door.unauthenticated) == 3


class TestOfOneAddress:
    def test_silent_ones_go_oldest_first_and_others_stay(self) -> None:
        door = Door(per_address=2)
        other = door.connect(1, ELSEWHERE)
        silent = door.connect(2, silent_seconds=SILENT_SECONDS)
        fresh = door.connect(1)
        assert (dropped(silent), dropped(fresh), dropped(other)) == ([True, False], [False], [False])

    def test_many_at_once_are_let_in_for_a_moment(self) -> None:
        door = Door(per_address=2)
        burst = door.connect(50, silent_seconds=SILENT_SECONDS)
        assert not any(dropped(burst))
        last = door.connect(1)
        assert (dropped(burst), dropped(last)) == ([True] * 49 + [False], [False])

    def test_that_is_a_trusted_proxy_has_no_bound(self) -> None:
        door = Door(per_address=2)
        assert not any(dropped(door.connect(50, PROXY, silent_seconds=SILENT_SECONDS) + door.connect(1, PROXY)))

    @pytest.mark.parametrize(
        ("one", "another", "same"),
        [
            ("2001:db8::1", "2001:db8::ffff:1", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("::ffff:192.0.2.1", "192.0.2.1", True),
            ("192.0.2.1", "192.0.2.2", False),
            ("", "", True),
        ],
    )
    def test_one_clients_ipv6_addresses_are_one(self, one: str, another: str, *, same: bool) -> None:
        assert (network_of(one) == network_of(another)) is same


@contextmanager
def silent_sockets(port: int, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        for each in found:
            each.setblocking(False)
        yield found


async def ended(silent: socket.socket) -> None:
    async with asyncio.timeout(5):
        with suppress(ConnectionError):
            await asyncio.get_running_loop().sock_recv(silent, 1)


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> int:
    writer.write(f"GET /graphql?query={{hello}} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode())
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
    return int(head.split(b" ")[1])


class TestOnAServer:
    LIMIT = 20

    @pytest.fixture
    def unauthenticated(self) -> UnauthenticatedConnections:
        return UnauthenticatedConnections(self.LIMIT)

    @pytest.fixture
    async def port(self, unauthenticated: UnauthenticatedConnections) -> AsyncIterator[int]:
        async with serving(Shop().app(), state={STATE: unauthenticated}) as found:
            yield found

    async def test_silent_sockets_shut_no_one_out(self, port: int, unauthenticated: UnauthenticatedConnections) -> None:
        with silent_sockets(port, 3 * self.LIMIT) as silent:
            for each in silent[: 2 * self.LIMIT]:
                await ended(each)
            assert len(unauthenticated) == self.LIMIT
            async with connection(port) as (reader, writer), socket_client(port) as client:
                assert await hello(reader, writer, KEY) == 200
                await client.init()

    async def test_keep_alive_connections_of_a_good_key_stay(
        self, port: int, unauthenticated: UnauthenticatedConnections
    ) -> None:
        async with connection(port) as (reader, writer), socket_client(port) as client:
            assert await hello(reader, writer, KEY) == 200
            await client.init()
            with silent_sockets(port, 2 * self.LIMIT) as silent:
                await ended(silent[self.LIMIT - 1])
                assert len(unauthenticated) == self.LIMIT
                assert await hello(reader, writer, KEY) == 200
                await client.taken()
            await eventually(lambda: len(unauthenticated) == 0)

    async def test_those_of_a_wrong_key_do_not(self, port: int, unauthenticated: UnauthenticatedConnections) -> None:
        async with connection(port) as (reader, writer):
            assert await hello(reader, writer, "sk-wrong") == 401
            assert len(unauthenticated) == 1
            with silent_sockets(port, self.LIMIT):
                async with asyncio.timeout(5):
                    with suppress(ConnectionError):
                        assert await reader.read() == b""

    async def test_a_socket_before_its_connection_init_is_one(
        self, port: int, unauthenticated: UnauthenticatedConnections
    ) -> None:
        async with socket_client(port) as client:
            await eventually(lambda: len(unauthenticated) == 1)
            with silent_sockets(port, self.LIMIT):
                assert (await client.closed())[0] == 1006
        await eventually(lambda: len(unauthenticated) == 0)
