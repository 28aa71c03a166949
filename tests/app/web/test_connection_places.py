"""How many connections a good key may have open, by the rule and on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from websockets.exceptions import ConnectionClosed

from app.domain.errors import Overloaded
from app.web.capacity import Capacity, Holder
from app.web.connection_places import MAX_CONNECTIONS, STATE, ConnectionPlaces, limits_of
from tests.app.graphql.serving import SocketClient, eventually, serving, socket_client
from tests.app.graphql.shop import ADMIN_KEY, KEY, OTHER_KEY, Shop
from tests.app.web.test_unauthenticated import Socket, connection, hello

pytestmark = pytest.mark.anyio

ONE = Holder("a", "acme")
OTHER = Holder("b", "globex")


class TestPlaces:
    def places(self, limit: int) -> ConnectionPlaces:
        return ConnectionPlaces(Capacity(limit, timedelta(seconds=1)))

    def test_a_connection_takes_one_however_often_it_shows_its_key(self) -> None:
        places, socket = self.places(1), Socket()
        for _ in range(3):
            places.take(socket, ONE)
        with pytest.raises(Overloaded):
            places.take(Socket(), OTHER)
        places.leave(socket)
        places.leave(socket)
        places.take(Socket(), OTHER)
        assert len(places) == 1

    def test_a_connection_counts_for_the_last_key_it_showed(self) -> None:
        places, shared = self.places(1), Socket()
        places.take(shared, ONE)
        places.take(shared, OTHER)
        places.leave(shared)
        assert len(places) == 0
        places.take(Socket(), ONE)


class TestLimits:
    @pytest.mark.parametrize("open_files", [1, 2, 64, 1024, 65_536, 10_000_000])
    def test_leave_files_to_the_process_itself(self, open_files: int) -> None:
        unauthenticated, authenticated = limits_of(open_files, 10_000)
        assert unauthenticated >= 1
        assert authenticated >= 1
        if open_files >= 64:
            assert open_files - unauthenticated - authenticated >= min(4096, open_files // 4)

    def test_of_no_limit_are_the_largest(self) -> None:
        assert limits_of(None, 10_000) == (10_000, MAX_CONNECTIONS)


class TestOnAServer:
    LIMIT = 20

    @pytest.fixture
    def places(self) -> ConnectionPlaces:
        return ConnectionPlaces(Capacity(self.LIMIT, timedelta(seconds=1)))

    @pytest.fixture
    async def port(self, places: ConnectionPlaces) -> AsyncIterator[int]:
        async with serving(Shop().app(), state={STATE: places}) as found:
            yield found

    async def test_one_key_leaves_connections_to_others(self, port: int, places: ConnectionPlaces) -> None:
        async with AsyncExitStack() as stack:
            statuses = []
            for _ in range(2 * self.LIMIT):
                reader, writer = await stack.enter_async_context(connection(port))
                statuses.append(await hello(reader, writer, KEY))
            allowed = statuses.count(200)
            assert self.LIMIT * 3 / 4 <= allowed == len(places) < self.LIMIT
            assert statuses == [200] * allowed + [503] * (2 * self.LIMIT - allowed)
            for key in (OTHER_KEY, ADMIN_KEY):
                reader, writer = await stack.enter_async_context(connection(port))
                assert await hello(reader, writer, key) == 200
        await eventually(lambda: len(places) == 0)

    async def test_one_over_the_share_is_closed(self, port: int) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(self.LIMIT):
                reader, writer = await stack.enter_async_context(connection(port))
                writer.write(f"GET /graphql?query={{hello}} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"connection: close\r\n" in head
            assert b"retry-after: 1\r\n" in head
            async with asyncio.timeout(5):
                assert b'"code":"OVERLOADED"' in await reader.read()

    async def test_a_connection_goes_on_with_many_calls(self, port: int, places: ConnectionPlaces) -> None:
        async with connection(port) as (reader, writer):
            for key in (*[KEY] * self.LIMIT, *[OTHER_KEY] * self.LIMIT):
                assert await hello(reader, writer, key) == 200
            assert len(places) == 1

    async def test_websockets_count(self, port: int, places: ConnectionPlaces) -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(socket_client(port)) for _ in range(self.LIMIT)]
            refused = [await client.closed() for client in clients if not await is_taken(client)]
            assert len(refused) == self.LIMIT - len(places) > 0
            assert {code for code, _ in refused} == {1013}
            other = await stack.enter_async_context(socket_client(port))
            await other.init(OTHER_KEY)
        await eventually(lambda: len(places) == 0)


async def is_taken(client: SocketClient) -> bool:
    await client.send({"type": "connection_init", "payload": {"authorization": f"Bearer {KEY}"}})
    try:
        return await client.receive() == {"type": "connection_ack"}
    except ConnectionClosed:
        return False
