"""The metrics of what is open: sockets, event streams, and the subscriptions over them."""

from __future__ import annotations

import pytest

from tests.app.graphql.serving import eventually, socket_client, stream_client
from tests.app.graphql.shop import Shop, numbers

pytestmark = pytest.mark.anyio

NEWS = "subscription { news { number } }"


def opened(shop: Shop) -> tuple[float | None, float | None]:
    return tuple(shop.metrics.get_sample_value(f"greenlang_open_{what}") for what in ("streams", "subscriptions"))  # type: ignore[return-value]  # of two


async def test_a_socket_counts_once_and_each_of_its_subscriptions(shop: Shop, port: int) -> None:
    assert opened(shop) == (0, 0)
    async with socket_client(port) as client:
        await client.init()
        assert opened(shop) == (1, 0)
        await client.subscribe("own", numbers(100_000, 10))
        await client.subscribe("shared", NEWS)
        await client.subscribe("query", "{ tenant }")
        await eventually(lambda: shop.board.opened == 2)
        assert opened(shop) == (1, 2)
        await client.send({"id": "shared", "type": "complete"})
        await eventually(lambda: opened(shop) == (1, 1))
    await eventually(lambda: opened(shop) == (0, 0))


@pytest.mark.parametrize("query", [NEWS, numbers(100_000, 10)])
async def test_an_event_stream_is_both(shop: Shop, port: int, query: str) -> None:
    async with stream_client(port) as client:
        await client.start(query)
        await eventually(lambda: opened(shop) == (1, 1))
    await eventually(lambda: opened(shop) == (0, 0))
