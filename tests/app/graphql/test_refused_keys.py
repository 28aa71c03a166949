"""Every refusal of a key is counted once, whatever transport it came by."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import pytest
from websockets.exceptions import InvalidStatus

from app.web.misuse import Door
from tests.app.graphql.asgi import Client
from tests.app.graphql.serving import serving, socket_client, stream_client
from tests.app.graphql.shop import KEY, Shop, with_limits, with_server

pytestmark = pytest.mark.anyio

Ask: TypeAlias = Callable[[Shop, dict[str, str]], Awaitable[None]]
FORBIDDEN = "{ forbidden }"
UNKNOWN = {"authorization": "Bearer sk-wrong"}
GOOD = {"authorization": f"Bearer {KEY}"}


async def post(shop: Shop, headers: dict[str, str]) -> None:
    await Client(shop.app(), key=None, headers=headers).post(FORBIDDEN)


async def get(shop: Shop, headers: dict[str, str]) -> None:
    await Client(shop.app(), key=None, headers=headers).send(method="GET", query_string="query=%7Bforbidden%7D")


async def stream(shop: Shop, headers: dict[str, str]) -> None:
    client = Client(shop.app(), key=None, headers=headers, accept="text/event-stream")
    await client.post("subscription { refuses }")


async def schema(shop: Shop, headers: dict[str, str]) -> None:
    await Client(shop.app(), key=None, headers=headers).send(method="GET", path="/graphql/schema.graphql")


async def socket(shop: Shop, headers: dict[str, str]) -> None:
    async with serving(shop.app()) as port, socket_client(port) as client:
        await client.send({"type": "connection_init", "payload": headers})
        if headers != GOOD:
            await client.closed()
            return
        await client.receive()
        for id_ in ("query", "subscription"):
            await client.subscribe(id_, FORBIDDEN if id_ == "query" else "subscription { refuses }")
            await client.receive()


def counts(shop: Shop) -> dict[tuple[str, str], float]:
    """By reason and door, those that are not 0."""
    samples = (sample for metric in shop.metrics.collect() for sample in metric.samples if sample.name.endswith("_total"))
    return {(sample.labels["reason"], sample.labels["door"]): sample.value for sample in samples if sample.value}


DOORS = [("http", post), ("http", get), ("http", stream), ("schema", schema), ("websocket", socket)]


class TestEveryDoor:
    @pytest.mark.parametrize(("door", "ask"), DOORS)
    @pytest.mark.parametrize(
        ("reason", "headers"),
        [
            ("missing", {}),
            ("missing", {"authorization": " "}),
            ("malformed", {"authorization": "Basic YTpi"}),
            ("malformed", {"authorization": "Bearer"}),
            ("unknown", UNKNOWN),
        ],
    )  # fmt: skip
    async def test_counts_a_refused_key_once(self, door: str, ask: Ask, reason: str, headers: dict[str, str]) -> None:
        shop = Shop(with_server(production=True))
        await ask(shop, headers)
        assert counts(shop) == {(reason, door): 1}

    @pytest.mark.parametrize(
        ("door", "ask", "times"),
        [("http", post, 1), ("http", get, 1), ("schema", schema, 1), ("websocket", socket, 2)],
    )
    async def test_counts_what_is_forbidden_once_an_operation(self, door: str, ask: Ask, times: int) -> None:
        shop = Shop(with_server(production=True))
        await ask(shop, GOOD)
        assert counts(shop) == {("forbidden", door): times}

    async def test_counts_a_forbidden_stream(self) -> None:
        shop = Shop()
        async with serving(shop.app()) as port, stream_client(port) as client:
            await client.start("subscription { refuses }")
            await client.event()
        assert counts(shop) == {("forbidden", "http"): 1}

    async def test_counts_forbidden_introspection(self) -> None:
        shop = Shop(with_server(production=True))
        await Client(shop.app()).post("{ __schema { queryType { name } } }")
        assert counts(shop) == {("forbidden", "http"): 1}

    async def test_counts_several_forbidden_fields_of_one_operation_once(self) -> None:
        shop = Shop()
        await Client(shop.app()).post("{ a: forbidden b: forbidden }")
        assert counts(shop) == {("forbidden", "http"): 1}

    async def test_counts_a_page_of_a_foreign_origin(self) -> None:
        shop = Shop()
        async with serving(shop.app()) as port:
            with suppress(InvalidStatus):
                async with socket_client(port, origin="https://evil.example.com"):
                    pass
        assert counts(shop) == {("origin", "websocket"): 1}

    async def test_counts_a_document_that_is_not_trusted(self, tmp_path: Path) -> None:
        path = tmp_path / "documents.json"
        path.write_text('{"tenant-1": "{ tenant }"}')
        shop = Shop(with_limits(trusted_documents=path, trusted_only=True))
        answer = await Client(shop.app()).post("{ hello }")
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
        async with serving(shop.app()) as port, socket_client(port) as client:
            await client.init()
            await client.subscribe("a", "{ hello }")
            assert (await client.receive())["type"] == "error"
        assert counts(shop) == {("forbidden", "http"): 1, ("forbidden", "websocket"): 1}

    async def test_counts_nothing_else(self) -> None:
        shop = Shop()
        for query in ("{ tenant }", "{ broken }", "{ refused }", "{ store }", "{", "{ nope }"):
            await Client(shop.app()).post(query)
        shop.keys.away = True
        await Client(shop.app()).post("{ tenant }")
        assert counts(shop) == {}


class TestAFlood:
    async def test_of_wrong_keys_leaves_a_trace_in_one_line(self, caplog: pytest.LogCaptureFixture) -> None:
        shop = Shop()
        app = shop.app()
        for number in range(300):
            await Client(app, key=f"sk-{number:012}-x").post("{ tenant }")
        assert counts(shop) == {("unknown", Door.HTTP.value): 300}
        lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [(line.name, line.__dict__["client"]) for line in lines] == [("app.web.misuse", "127.0.0.1")]
