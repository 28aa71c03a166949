from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from tests.app.graphql.asgi import Client
from tests.app.graphql.serving import eventually, serving, settled, stream_client
from tests.app.graphql.shop import KEY, OTHER_KEY, Shop, changed, numbers, with_limits, with_server

pytestmark = pytest.mark.anyio


class TestStreams:
    async def test_a_subscription_has_its_events_then_completes(self, port: int) -> None:
        async with stream_client(port) as client:
            await client.start(numbers(2))
            assert b"text/event-stream" in client.headers
            assert await client.event() == ("next", {"data": {"count": {"number": 0}}})
            assert await client.event() == ("next", {"data": {"count": {"number": 1}}})
            assert await client.event() == ("complete", None)

    async def test_a_query_has_one(self, port: int) -> None:
        async with stream_client(port) as client:
            await client.start("{ tenant }")
            name, payload = await client.event()
            assert (name, payload["data"]) == ("next", {"tenant": "acme"})  # type: ignore[index]  # JSON
            assert await client.event() == ("complete", None)

    @pytest.mark.parametrize("accept", ["application/json, text/event-stream", "text/event-stream;q=0.1, application/json"])
    async def test_who_takes_json_before_events_has_a_subscription_as_events(self, port: int, accept: str) -> None:
        async with stream_client(port) as client:
            await client.start(numbers(1), accept=accept)
            assert b"text/event-stream" in client.headers
            assert await client.event() == ("next", {"data": {"count": {"number": 0}}})
            assert await client.event() == ("complete", None)
        async with stream_client(port) as client:
            await client.start("{ tenant }", accept=accept)
            assert b"application/json" in client.headers

    async def test_every_event_has_a_fresh_context(self, shop: Shop, port: int) -> None:
        async with stream_client(port) as client:
            await client.start("subscription { count(to: 3) { contextId } }")
            for _ in range(4):
                await client.event()
        assert len(shop.board.contexts) == 4

    async def test_a_source_that_breaks_is_reported_and_masked(self, port: int) -> None:
        async with stream_client(port) as client:
            await client.start("subscription { fails }")
            await client.event()
            name, payload = await client.event()
            assert (name, payload["errors"][0]["extensions"]["code"]) == ("next", "INTERNAL")  # type: ignore[index]  # JSON
            assert "secret" not in str(payload)
            assert await client.event() == ("complete", None)

    async def test_a_broadcast_is_shared(self, shop: Shop, port: int) -> None:
        async with stream_client(port) as one, stream_client(port) as two:
            await one.start("subscription { news { number contextId } }")
            await two.start("subscription { news { number contextId } }", OTHER_KEY)
            shop.board.publish(5)
            assert await one.event() == await two.event()
            assert shop.board.executed == 1
            shop.board.publish(None)
            assert await one.event() == ("complete", None)


async def answered(port: int, seconds: float) -> None:
    """Returns once a query beside it is answered."""
    async with asyncio.timeout(seconds):
        while await other_call(port) != 200:  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0.01)


async def other_call(port: int) -> int:
    """The status of a query beside it."""
    async with stream_client(port) as other:
        await other.start("{ hello }")
        return other.status


class TestRefusals:
    async def test_a_fault_of_the_document_is_an_event(self, port: int) -> None:
        async with stream_client(port) as client:
            await client.start("subscription { nope }")
            assert client.status == 200
            _, payload = await client.event()
            assert payload["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"  # type: ignore[index]  # JSON
            assert await client.event() == ("complete", None)

    async def test_everything_before_it_has_its_status(self) -> None:
        shop = Shop(with_limits(sockets_per_key=0))
        client = Client(shop.app(), accept="text/event-stream")
        assert (await Client(shop.app(), key=None, accept="text/event-stream").post(numbers(1))).status == 401
        assert (await client.send(b"[]")).code == "BAD_USER_INPUT"
        answer = await client.post(numbers(1))
        assert (answer.status, answer.headers["content-type"]) == (429, "application/json; charset=utf-8")
        assert answer.extensions["limit"] == "streams of one key"
        assert shop.board.opened == 0


class TestBytesInFlight:
    BODY: ClassVar[dict[str, str]] = {"pad": "x" * 60_000}

    @pytest.mark.parametrize("query", ["{ held }", "subscription { news { number } }"])
    async def test_count_until_the_stream_has_ended(self, query: str) -> None:
        shop = Shop(with_limits(bytes_in_flight=100_000))
        async with serving(shop.app()) as port, stream_client(port) as first, stream_client(port) as second:
            await first.start(query, variables=self.BODY)
            await second.start(query, variables=self.BODY)
            assert (first.status, second.status) == (200, 503)
            first.vanish()
            await answered(port, 1)
            async with stream_client(port) as third:
                await third.start(query, variables=self.BODY)
                assert third.status == 200


class TestKeys:
    @pytest.mark.parametrize("revoked", [True, False])
    async def test_a_key_that_is_gone_ends_its_streams(self, shop: Shop, port: int, *, revoked: bool) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=0.3)
        shop.keys.known[KEY] = changed(shop.keys.known[KEY], expires_at=None if revoked else soon)
        async with stream_client(port) as client:
            await client.start("subscription { news { number } }")
            if revoked:
                del shop.keys.known[KEY]
            _, payload = await client.event()
            assert payload["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"  # type: ignore[index]  # JSON
            assert await client.event() == ("complete", None)
        await eventually(lambda: shop.board.open_sources == 0, 1)

    async def test_of_a_query_too_and_nothing_follows(self, shop: Shop, port: int) -> None:
        async with stream_client(port) as client:
            await client.start("{ held }")
            await eventually(lambda: shop.board.contexts)
            del shop.keys.known[KEY]
            _, payload = await client.event()
            assert payload["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"  # type: ignore[index]  # JSON
            assert await client.event() == ("complete", None)
            shop.board.gate.set()
            assert b"event" not in await client.reader.readuntil(b"0\r\n\r\n")


class TestClientsThatLeave:
    async def test_a_query_or_mutation_ends_too(self) -> None:
        shop = Shop(with_server(max_in_flight=1))
        async with serving(shop.app()) as port, stream_client(port) as client:
            await client.start("{ held }")
            await eventually(lambda: shop.board.contexts)
            assert await other_call(port) == 503
            client.vanish()
            await answered(port, 1)

    async def test_what_was_sent_behind_the_request_hides_nothing(self, shop: Shop, port: int, endless: str) -> None:
        async with stream_client(port) as client:
            await client.start(endless)
            await eventually(lambda: shop.board.open_sources == 1)
            client.writer.write(b"GET /graphql HTTP/1.1\r\nhost: x\r\n\r\n")
            await eventually(lambda: shop.board.open_sources == 0, 1)
        async with stream_client(port) as client:
            await client.start(endless, behind=b"GET /graphql HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.status == 400
        assert shop.board.opened <= 1

    async def test_everything_is_freed_within_a_second(
        self, shop: Shop, port: int, endless: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with stream_client(port) as client:
            await client.start(endless)
            shop.board.publish(1)
            await client.event()
            assert shop.board.open_sources == 1
            client.vanish()
            await eventually(lambda: shop.board.open_sources == 0, 1)
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    async def test_a_reader_that_stops_reading_stops_the_source_and_is_cut_off(self) -> None:
        shop = Shop(with_limits(send_timeout=timedelta(seconds=1)))
        async with serving(shop.app()) as port, stream_client(port) as client:
            await client.start("subscription { large }")
            await settled(lambda: shop.board.produced)
            assert 0 < shop.board.produced < 200
            await eventually(lambda: shop.board.open_sources == 0, 4)
