"""Two tenants' keys against each other: what one holds never makes the other's call fail, on any transport."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from uuid import UUID

import pytest
from starlette.applications import Starlette
from starlette.types import Message

from app.settings import Settings
from tests.app.graphql.asgi import Client
from tests.app.graphql.serving import (
    SocketClient,
    eventually,
    serving,
    settled,
    socket_client,
    stream_client,
    subscription_in_parts,
)
from tests.app.graphql.shop import ADMIN_KEY, KEY, OTHER_KEY, Shop, with_limits, with_server

pytestmark = pytest.mark.anyio

PLACES = 40
NEIGHBOURS = pytest.mark.parametrize(("greedy", "other"), [(KEY, OTHER_KEY), (OTHER_KEY, KEY), (KEY, ADMIN_KEY)])


def greeted(payload: object) -> bool:
    return isinstance(payload, dict) and payload["data"] == {"hello": "hello world"}


@asynccontextmanager
async def many(count: int, app: Starlette, key: str, query: str, variables: object = None) -> AsyncIterator[list[int]]:
    """So many calls that never end by themselves, and the statuses of those that did."""
    ended: list[int] = []

    async def one() -> None:
        ended.append((await Client(app, key).post(query, variables)).status)

    tasks = [asyncio.create_task(one()) for _ in range(count)]
    try:
        await settled(lambda: len(ended))
        yield ended
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class TestSlowCalls:
    @NEIGHBOURS
    async def test_leave_places_to_others(self, greedy: str, other: str) -> None:
        app = Shop(with_server(max_in_flight=PLACES)).app()
        async with many(2 * PLACES, app, greedy, "{ held }") as ended:
            assert set(ended) == {503}
            assert PLACES * 3 / 4 <= 2 * PLACES - len(ended) < PLACES
            assert (await Client(app, other).post("{ hello }")).status == 200
            assert (await Client(app, other).send(method="GET", query_string="query={hello}")).status == 200

    @NEIGHBOURS
    async def test_leave_places_on_every_transport(self, greedy: str, other: str) -> None:
        app = Shop(with_server(max_in_flight=PLACES)).app()
        async with many(2 * PLACES, app, greedy, "{ held }"), serving(app) as port:
            async with stream_client(port) as stream:
                await stream.start("{ hello }", other)
                assert stream.status == 200
                assert greeted((await stream.event())[1])
            async with socket_client(port) as client:
                await client.init(other)
                await client.subscribe("a", "{ hello }")
                assert greeted((await client.receive())["payload"])


class TestSlowBodies:
    @asynccontextmanager
    async def slow(self, count: int, app: Starlette, key: str) -> AsyncIterator[None]:
        waiting = 0

        async def one() -> None:
            async def receive() -> Message:
                nonlocal waiting
                waiting += 1
                await asyncio.Event().wait()
                raise AssertionError("nobody sets it")

            async def send(_message: Message) -> None:
                pass

            await app(Client(app, key).scope("POST", "", "/graphql"), receive, send)

        tasks = [asyncio.create_task(one()) for _ in range(count)]
        try:
            await settled(lambda: waiting)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @NEIGHBOURS
    async def test_leave_room_for_others_bodies(self, greedy: str, other: str) -> None:
        app = Shop(with_server(max_in_flight=PLACES)).app()
        async with self.slow(3 * PLACES, app, greedy):
            assert (await Client(app, other).post("{ hello }")).status == 200

    async def test_hold_no_place_among_the_calls(self) -> None:
        app = Shop(with_server(max_in_flight=PLACES)).app()
        async with self.slow(3 * PLACES, app, KEY):
            assert (await Client(app, KEY).post("{ hello }")).status == 503
            assert (await Client(app, KEY).send(method="GET", query_string="query={hello}")).status == 200


class TestBytesInFlight:
    SETTINGS: Settings = with_limits(bytes_in_flight=4_000_000, body_bytes=200_000, send_timeout=timedelta(seconds=20))
    PAD = 150_000

    @NEIGHBOURS
    async def test_of_bodies_leave_room_for_others(self, greedy: str, other: str) -> None:
        app, pad = Shop(self.SETTINGS).app(), {"pad": "x" * self.PAD}
        async with many(40, app, greedy, "{ held }", pad) as ended:
            assert set(ended) == {503}
            assert (40 - len(ended)) * self.PAD >= 0.75 * 4_000_000
            assert (await Client(app, other).post("{ hello }", pad)).status == 200

    @NEIGHBOURS
    async def test_of_messages_that_are_not_whole_leave_room_for_others(self, greedy: str, other: str) -> None:
        async with serving(Shop(self.SETTINGS).app()) as port, AsyncExitStack() as stack:
            greedy_ones = [await stack.enter_async_context(socket_client(port)) for _ in range(30)]
            sending = [asyncio.create_task(self._send_in_part(client, greedy)) for client in greedy_ones]
            await eventually(lambda: any(client.connection.close_code == 1013 for client in greedy_ones))
            client = await stack.enter_async_context(socket_client(port))
            await client.init(other)
            await client.subscribe("a", "{ hello }", {"pad": "x" * self.PAD})
            assert greeted((await client.receive())["payload"])
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _send_in_part(self, client: SocketClient, key: str) -> None:
        await client.init(key)
        await client.connection.send(subscription_in_parts(self.PAD, asyncio.Event()))


class TestSeveralGreedyTenants:
    async def test_leave_a_place_to_one_that_holds_nothing(self) -> None:
        shop = Shop(with_server(max_in_flight=200))
        template = shop.keys.known[KEY]
        app = shop.app()
        async with AsyncExitStack() as stack:
            for number in range(3):
                greedy = dataclasses.replace(template, key_id=UUID(int=100 + number), tenant=f"tenant {number}")
                shop.keys.known[f"sk-{number}"] = greedy
                await stack.enter_async_context(many(200, app, f"sk-{number}", "{ held }"))
            assert (await Client(app, OTHER_KEY).post("{ hello }")).status == 200
            assert (await Client(app, ADMIN_KEY).post("{ hello }")).status == 200
