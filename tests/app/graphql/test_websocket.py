from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.graphql.body import MAX_JSON_OBJECTS, MAX_JSON_VALUES
from app.graphql.engine import Run
from tests.app.graphql.serving import SocketClient, eventually, serving, settled, socket_client
from tests.app.graphql.shop import ADMIN_KEY, KEY, OTHER_KEY, Shop, changed, numbers, with_limits, with_server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(port: int) -> AsyncIterator[SocketClient]:
    async with socket_client(port) as found:
        await found.init()
        yield found


class TestOperations:
    async def test_a_subscription_has_its_events_then_completes(self, client: SocketClient) -> None:
        await client.subscribe("a", numbers(2))
        assert await client.receive() == {"id": "a", "type": "next", "payload": {"data": {"count": {"number": 0}}}}
        assert await client.receive() == {"id": "a", "type": "next", "payload": {"data": {"count": {"number": 1}}}}
        assert await client.receive() == {"id": "a", "type": "complete"}

    async def test_queries_and_mutations_too(self, client: SocketClient) -> None:
        await client.subscribe("q", "query($n: String) { hello(name: $n) }", {"n": "you"})
        answer = await client.receive()
        assert answer["payload"]["data"] == {"hello": "hello you"}  # type: ignore[index]  # JSON
        assert await client.receive() == {"id": "q", "type": "complete"}

    async def test_every_operation_and_every_event_has_a_fresh_context(self, shop: Shop, client: SocketClient) -> None:
        for id_ in ("a", "b"):
            await client.subscribe(id_, "subscription { count(to: 3) { contextId } }")
            for _ in range(4):
                await client.receive()
        assert len({id(context) for context in shop.board.contexts}) == len(shop.board.contexts) == 8

    async def test_a_client_may_stop_one(self, shop: Shop, client: SocketClient) -> None:
        await client.subscribe("a", numbers(1000, 0.01))
        await client.receive()
        await client.send({"id": "a", "type": "complete"})
        await eventually(lambda: shop.board.open_sources == 0, 1)
        await client.subscribe("a", "{ tenant }")
        while (frame := await client.receive())["type"] != "complete":
            assert frame["id"] == "a"

    async def test_pings_are_answered(self, client: SocketClient) -> None:
        await client.send({"type": "ping"})
        assert await client.receive() == {"type": "pong"}
        await client.send({"type": "ping", "payload": {"a": 1}})
        assert await client.receive() == {"type": "pong", "payload": {"a": 1}}


class TestOneBadOperation:
    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("subscription {", "GRAPHQL_PARSE_FAILED"),
            ("subscription { nope }", "GRAPHQL_VALIDATION_FAILED"),
            ("subscription { refuses }", "FORBIDDEN"),
            ("subscription A { fails } subscription B { fails }", "BAD_USER_INPUT"),
            ("{ " + "a: hello " * 11 + "}", "LIMIT_EXCEEDED"),
            ("{ hello } #" + "x" * 500_000, "LIMIT_EXCEEDED"),
        ],
    )
    async def test_gets_an_error_and_the_others_live_on(self, shop: Shop, client: SocketClient, query: str, code: str) -> None:
        await client.subscribe("good", "subscription { news { number } }")
        await client.taken()
        await client.subscribe("bad", query)
        error = await client.receive()
        assert (error["id"], error["type"]) == ("bad", "error")
        assert error["payload"][0]["extensions"]["code"] == code  # type: ignore[index]  # JSON
        shop.board.publish(1)
        shop.board.publish(None)
        assert (await client.receive())["payload"] == {"data": {"news": {"number": 1}}}
        assert await client.receive() == {"id": "good", "type": "complete"}

    async def test_that_would_unfold_to_too_much_leaves_the_others_alone(self, shop: Shop, client: SocketClient) -> None:
        await client.subscribe("good", "subscription { news { number } }")
        await client.subscribe("bad", "{ hello }", {"a": [{}] * (MAX_JSON_OBJECTS + 1)})
        error = await client.receive()
        assert (error["id"], error["type"]) == ("bad", "error")
        assert error["payload"][0]["extensions"]["limit"] == "JSON objects"  # type: ignore[index]  # JSON
        await client.taken()
        shop.board.publish(1)
        assert (await client.receive())["payload"] == {"data": {"news": {"number": 1}}}

    async def test_so_does_a_large_one(self, shop: Shop, client: SocketClient) -> None:
        await client.subscribe("good", "subscription { news { number } }")
        await client.subscribe("bad", "{ hello }", {"a": [[]] * (MAX_JSON_VALUES + 1)})
        error = await client.receive()
        assert (error["id"], error["type"]) == ("bad", "error")
        assert error["payload"][0]["extensions"]["limit"] == "JSON values"  # type: ignore[index]  # JSON
        await client.subscribe("good", "{ hello }", {"a": [[]] * (MAX_JSON_VALUES + 1)})
        assert (await client.closed())[0] == 4409

    async def test_a_source_that_breaks_is_masked(self, client: SocketClient, caplog: pytest.LogCaptureFixture) -> None:
        await client.subscribe("a", "subscription { fails }")
        await client.receive()
        frame = await client.receive()
        assert frame["type"] == "error"
        assert frame["payload"][0]["extensions"]["code"] == "INTERNAL"  # type: ignore[index]  # JSON
        assert "secret" not in str(frame)
        assert "secret sub detail" in caplog.text

    async def test_one_over_the_sockets_limit_is_refused(self) -> None:
        shop = Shop(with_limits(operations_per_socket=1))
        async with serving(shop.app()) as port, socket_client(port) as client:
            await client.init()
            await client.subscribe("a", numbers(100, 1))
            await client.receive()
            await client.subscribe("b", "{ hello }")
            assert (await client.receive())["payload"][0]["extensions"]["limit"] == "operations of one socket"  # type: ignore[index]  # JSON

    async def test_past_the_calls_in_flight_it_is_asked_to_come_back(self) -> None:
        shop = Shop(with_server(max_in_flight=1))
        async with serving(shop.app()) as port, socket_client(port) as client:
            await client.init()
            await client.subscribe("a", "{ wait(seconds: 5) }")
            await client.subscribe("b", "{ hello }")
            assert (await client.receive())["payload"][0]["extensions"]["code"] == "OVERLOADED"  # type: ignore[index]  # JSON


class TestBrokenProtocol:
    @pytest.mark.parametrize(
        "frame",
        [
            "[]",
            "7",
            "null",
            "{",
            '{"type": 1}',
            '{"type": "nope"}',
            '{"type": "subscribe"}',
            '{"id": "", "type": "subscribe", "payload": {"query": "{ hello }"}}',
            '{"id": ["a"], "type": "subscribe", "payload": {"query": "{ hello }"}}',
            '{"id": "a", "type": "subscribe", "payload": null}',
            '{"id": "a", "type": "subscribe", "payload": {"query": 7}}',
            '{"id": "a", "type": "subscribe", "payload": {"query": "{ hello }", "variables": []}}',
            '{"type": "complete"}',
            '{"id": "", "type": "complete"}',
            '{"type": "ping", "payload": 5}',
            '{"type": "ping", "payload": {"a": 1e999}}',
            '{"type": "ping", "payload": NaN}',
            '{"type": "ping", "payload": "' + "x" * 2000 + '"}',
            '{"type": "ping", "payload": ' + "[" * 100_000 + "}",
        ],
    )
    async def test_closes_with_4400(self, client: SocketClient, caplog: pytest.LogCaptureFixture, frame: str) -> None:
        await client.send(frame)
        assert (await client.closed())[0] == 4400
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    @pytest.mark.parametrize("payload", ["5", "[]", '"x"', '{"a": 1e999}', '{"a": ' + "1" * 5000 + "}", '{"a": NaN}'])
    async def test_so_does_an_odd_payload_of_the_first_frame(
        self, port: int, caplog: pytest.LogCaptureFixture, payload: str
    ) -> None:
        async with socket_client(port, additional_headers={"Authorization": f"Bearer {KEY}"}) as client:
            await client.send(f'{{"type": "connection_init", "payload": {payload}}}')
            assert (await client.closed())[0] == 4400
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            (b'{"type": "\xff"}', 1007),
            (b'{"id": "a", "type": "subscribe", "payload": {"query": "' + b"x" * 100_000 + b'\xff"}}', 4400),
            (b'{"payload": {"query": "{ hello }", "variables": {"a": [' + b"[]," * 200_000 + b'0]}}, "id": "a"}', 4400),
            (b'{"type": "ping", "payload": {"a": "' + b"x" * 100_000 + b'"}}', 4400),
            (b"[" * 100_000, 4400),
            (b'"' * 100_000, 4400),
        ],
    )
    async def test_closes_also_where_it_is_large_or_no_text(
        self, client: SocketClient, caplog: pytest.LogCaptureFixture, frame: bytes, code: int
    ) -> None:
        await client.connection.send(frame, text=True)
        assert (await client.closed())[0] == code
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    async def test_binary_frames_too(self, client: SocketClient) -> None:
        await client.connection.send(b"{}")
        assert (await client.closed())[0] == 4400

    async def test_the_same_id_twice(self, client: SocketClient) -> None:
        await client.subscribe("a", numbers(100, 1))
        await client.subscribe("a", numbers(100, 1))
        assert (await client.closed())[0] == 4409

    async def test_initialising_twice(self, client: SocketClient) -> None:
        await client.send({"type": "connection_init"})
        assert (await client.closed())[0] == 4429

    async def test_another_subprotocol(self, port: int) -> None:
        async with socket_client(port, subprotocols=["graphql-ws"]) as client:
            assert (await client.closed())[0] == 4406


class TestKeys:
    async def test_subscribing_before_the_key_was_sent(self, port: int) -> None:
        async with socket_client(port) as client:
            await client.subscribe("a", "{ hello }")
            assert (await client.closed())[0] == 4401

    @pytest.mark.parametrize("payload", [None, {}, {"authorization": "Bearer sk-wrong"}, {"authorization": 7}])
    async def test_without_a_good_key_the_socket_closes(self, shop: Shop, port: int, payload: object) -> None:
        async with socket_client(port) as client:
            await client.send({"type": "connection_init", "payload": payload})
            assert (await client.closed())[0] == 4403
        assert shop.board.contexts == []

    async def test_pings_are_answered_before_it_has_come(self, port: int) -> None:
        async with socket_client(port) as client:
            await client.send({"type": "ping", "payload": {"a": 1}})
            assert await client.receive() == {"type": "pong", "payload": {"a": 1}}
            await client.init()

    async def test_a_program_may_send_the_key_with_the_handshake(self, port: int) -> None:
        async with socket_client(port, additional_headers={"Authorization": f"Bearer {KEY}"}) as client:
            await client.send({"type": "connection_init"})
            assert await client.receive() == {"type": "connection_ack"}

    async def test_the_key_must_come_in_time(self) -> None:
        shop = Shop(with_limits(connection_init_timeout=timedelta(milliseconds=50)))
        async with serving(shop.app()) as port, socket_client(port) as client:
            assert (await client.closed())[0] == 4408

    async def test_the_store_of_keys_being_away_says_try_again(self, shop: Shop, port: int) -> None:
        shop.keys.away = True
        async with socket_client(port) as client:
            await client.send({"type": "connection_init", "payload": {"authorization": f"Bearer {KEY}"}})
            assert (await client.closed())[0] == 1013

    async def test_an_expired_key_closes_the_socket(self, shop: Shop, port: int) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=0.5)
        shop.keys.known[KEY] = changed(shop.keys.known[KEY], expires_at=soon)
        async with socket_client(port) as client:
            await client.init()
            await client.subscribe("a", numbers(1000, 0.05))
            assert (await client.closed())[0] == 4403
        await eventually(lambda: shop.board.open_sources == 0, 1)

    async def test_a_revoked_key_closes_its_sockets_and_no_others(self, shop: Shop, port: int) -> None:
        async with socket_client(port) as client, socket_client(port) as other:
            await client.init()
            await other.init(OTHER_KEY)
            del shop.keys.known[KEY]
            assert (await client.closed())[0] == 4403
            await other.subscribe("a", "{ tenant }")
            assert (await other.receive())["payload"]["data"] == {"tenant": "globex"}  # type: ignore[index]  # JSON

    async def test_a_key_that_lost_a_right_closes_its_sockets(self, shop: Shop, port: int) -> None:
        async with socket_client(port) as client:
            await client.init()
            shop.keys.known[KEY] = changed(shop.keys.known[KEY], scopes=frozenset())
            assert (await client.closed())[0] == 4403

    async def test_sockets_stay_while_keys_cannot_be_checked(self, shop: Shop, port: int) -> None:
        async with socket_client(port) as client:
            await client.init()
            asked = shop.keys.asked
            shop.keys.away = True
            await eventually(lambda: shop.keys.asked > asked)
            await client.send({"type": "ping"})
            assert await client.receive() == {"type": "pong"}

    async def test_a_key_has_so_many_sockets(self) -> None:
        shop = Shop(with_limits(sockets_per_key=1))
        async with serving(shop.app()) as port, socket_client(port) as first:
            await first.init()
            async with socket_client(port) as second:
                await second.send({"type": "connection_init", "payload": {"authorization": f"Bearer {KEY}"}})
                assert (await second.closed())[0] == 4429
            async with socket_client(port) as admin:
                await admin.init(ADMIN_KEY)


async def handshake_refusal(port: int, **options: object) -> tuple[int, object, str | None]:
    """Status, code and when to come back."""
    with pytest.raises(InvalidStatus) as refused:
        async with socket_client(port, **options):
            pass
    response = refused.value.response
    code = json.loads(response.body)["errors"][0]["extensions"]["code"]
    return response.status_code, code, response.headers.get("retry-after")


class TestHandshakes:
    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://[::1", "http://127.0.0.1"])
    async def test_a_foreign_page_is_refused(self, port: int, origin: str) -> None:
        assert await handshake_refusal(port, origin=origin) == (403, "FORBIDDEN", None)

    async def test_our_own_and_listed_ones_are_let_in(self) -> None:
        shop = Shop(with_server(allowed_origins=("https://dashboard.example",)))
        async with serving(shop.app()) as port:
            for origin in (f"http://127.0.0.1:{port}", "https://dashboard.example"):
                async with socket_client(port, origin=origin) as client:
                    await client.init()


class TestClientsThatLeave:
    async def test_everything_is_freed_within_a_second(
        self, shop: Shop, port: int, endless: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with socket_client(port) as client:
            await client.init()
            await client.subscribe("a", endless)
            await eventually(lambda: shop.board.open_sources == 1)
            shop.board.publish(1)
            await client.receive()
            client.connection.transport.abort()
            await eventually(lambda: shop.board.open_sources == 0, 1)
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    async def test_a_reader_that_stops_reading_stops_the_source_and_is_cut_off(self) -> None:
        shop = Shop(with_limits(send_timeout=timedelta(seconds=1)))
        async with serving(shop.app()) as port, socket_client(port, max_queue=1) as client:
            await client.init()
            await client.subscribe("a", "subscription { large }")
            await settled(lambda: shop.board.produced)
            assert 0 < shop.board.produced < 200
            await eventually(lambda: shop.board.open_sources == 0, 4)
            client.connection.transport.abort()

    async def test_one_that_only_sends_is_read_no_further_than_it_reads(self) -> None:
        shop = Shop(with_limits(send_timeout=timedelta(seconds=2)))
        async with serving(shop.app()) as port, socket_client(port, max_queue=1) as client:
            await client.init()
            await client.subscribe("a", "subscription { large }")
            await settled(lambda: shop.board.produced)
            assert await sent_before_the_end(client) < 40_000, "more than the system's own buffers hold"
            client.connection.transport.abort()


async def sent_before_the_end(client: SocketClient) -> int:
    sent = 0
    with suppress(ConnectionClosed):
        async with asyncio.timeout(10):
            while True:
                await client.subscribe(f"{sent:0250}", "{")
                sent += 1
    return sent


class TestFramesBeforeAuthentication:
    async def test_a_large_frame_before_the_key_is_cut_off(self, port: int) -> None:
        async with socket_client(port) as client:
            await client.send({"type": "connection_init", "payload": {"pad": "x" * 100_000}})
            assert (await client.closed())[0] == 1009

    async def test_after_it_large_variables_may_come(self, client: SocketClient) -> None:
        await client.subscribe("a", "query($n: String) { hello(name: $n) }", {"n": "x" * 3_000_000})
        assert len(str(await client.receive())) > 3_000_000


class TestBroadcast:
    async def test_an_event_is_executed_once_for_all_who_ask_the_same(self, shop: Shop, port: int) -> None:
        query = "subscription News { news { number contextId } }"
        async with socket_client(port) as one, socket_client(port) as two, socket_client(port) as other:
            for client, key in ((one, KEY), (two, KEY), (other, OTHER_KEY)):
                await client.init(key)
                await client.subscribe("n", query)
            await one.subscribe("m", query)
            for client in (one, two, other):
                await client.taken()
            await eventually(lambda: shop.board.opened == 1)
            shop.board.publish(7)
            frames = [await one.receive(), await one.receive(), await two.receive(), await other.receive()]
            assert sorted(str(frame["id"]) for frame in frames) == ["m", "n", "n", "n"]
            assert len({str(frame["payload"]) for frame in frames}) == 1
            assert shop.board.executed == 1
            shop.board.publish(None)
            assert (await two.receive()) == {"id": "n", "type": "complete"}

    async def test_another_tenant_or_right_has_a_source_of_its_own(self, shop: Shop, port: int) -> None:
        query = "subscription { tenantNews { tenant } }"
        async with socket_client(port) as acme, socket_client(port) as globex, socket_client(port) as admin:
            for client, key in ((acme, KEY), (globex, OTHER_KEY), (admin, ADMIN_KEY)):
                await client.init(key)
                await client.subscribe("t", query)
            await eventually(lambda: shop.board.opened == 3)
            shop.board.publish(1)
            seen = [str((await client.receive())["payload"]) for client in (acme, globex, admin)]
            assert ["globex" in text for text in seen] == [False, True, False]

    async def test_one_who_joins_later_is_greeted_by_the_source(self, shop: Shop, port: int) -> None:
        query = "subscription { news { number } }"
        async with socket_client(port) as first, socket_client(port) as later:
            for client in (first, later):
                await client.init()
                await client.subscribe("n", query)
                await client.taken()
                await eventually(lambda: shop.board.opened == 1)
            await eventually(lambda: shop.board.greeted == 1)

    async def test_the_source_stays_for_those_who_stay(self, shop: Shop, port: int) -> None:
        async with socket_client(port) as stays:
            await stays.init()
            async with socket_client(port) as leaves:
                await leaves.init()
                for client in (leaves, stays):
                    await client.subscribe("n", "subscription { news { number } }")
                    await client.taken()
                await eventually(lambda: shop.board.opened == 1)
            shop.board.publish(3)
            assert (await stays.receive())["payload"] == {"data": {"news": {"number": 3}}}
            assert shop.board.opened == shop.board.open_sources == 1
        await eventually(lambda: shop.board.open_sources == 0, 1)

    async def test_one_who_does_not_read_is_left_behind_and_the_others_are_not(self, shop: Shop, port: int) -> None:
        query = "subscription { news { number pad(size: 200000) } }"
        async with socket_client(port, max_queue=1) as slow, socket_client(port) as quick:
            for client in (slow, quick):
                await client.init()
                await client.subscribe("n", query)
                await client.taken()
            await eventually(lambda: shop.board.opened == 1)
            for number in range(400):
                shop.board.publish(number)
                assert (await quick.receive())["type"] == "next"
            last: dict[str, object] = {}
            while last.get("type") != "error":
                last = await slow.receive()
            assert last["payload"][0]["extensions"]["code"] == "OVERLOADED"  # type: ignore[index]  # JSON


class TestWhatIsKept:
    @pytest.mark.parametrize("query", ["subscription { news { number } }", numbers(1000, 0.01), "{ hello }"])
    async def test_nothing_once_an_operation_or_its_socket_has_ended(self, port: int, query: str) -> None:
        gc.collect()
        gc.disable()
        try:
            async with socket_client(port) as client:
                await client.init()
                for id_ in ("a", "b"):
                    await client.subscribe(id_, query, {"pad": "x"})
                await asyncio.sleep(0.05)
                await client.send({"id": "a", "type": "complete"})
            await eventually(lambda: not [found for found in gc.get_objects() if isinstance(found, Run)])
        finally:
            gc.enable()

    async def test_a_member_of_a_broadcast_counts_with_the_bytes_it_came_in(self) -> None:
        shop = Shop(with_limits(bytes_in_flight=200_000))
        pad = {"pad": "x" * 150_000}
        async with serving(shop.app()) as port, socket_client(port) as first, socket_client(port) as second:
            await first.init()
            await first.subscribe("a", "subscription { news { number } }", pad)
            await eventually(lambda: shop.board.topic)
            await second.init()
            await second.subscribe("b", "{ hello }", pad)
            assert (await second.closed())[0] == 1013
            await first.send({"id": "a", "type": "complete"})
            await eventually(lambda: not shop.board.open_sources)
            await first.subscribe("b", "{ hello }", pad)
            while (frame := await first.receive())["type"] != "complete":
                assert frame["type"] == "next"

    async def test_broadcasts_are_distinguished_by_what_they_declare(self, shop: Shop, client: SocketClient) -> None:
        shared = "subscription($a: Boolean!) { news { number @include(if: $a) id: number } }"
        await client.subscribe("a", shared, {"a": True, "pad": 1})
        await client.subscribe("b", shared, {"pad": 2, "a": True})
        await client.subscribe("c", shared, {"a": False})
        await eventually(lambda: len(shop.board.topic) == 2)
        await client.taken()
        shop.board.publish(1)
        found = [await client.receive() for _ in range(3)]
        assert {frame["id"]: frame["payload"]["data"]["news"] for frame in found} == {  # type: ignore[index]  # JSON
            "a": {"number": 1, "id": 1},
            "b": {"number": 1, "id": 1},
            "c": {"id": 1},
        }
