from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.app.graphql.serving import serving
from tests.app.graphql.shop import Shop, numbers


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def port(shop: Shop) -> AsyncIterator[int]:
    async with serving(shop.app()) as found:
        yield found


@pytest.fixture(
    params=[
        pytest.param(numbers(10**9), id="a source that never waits"),
        pytest.param(numbers(10**9, 0.001), id="a busy source"),
        pytest.param(numbers(10**9, 3600), id="a sleeping source"),
        pytest.param("subscription { news { number } }", id="a broadcast"),
        pytest.param("subscription { large }", id="large events"),
    ]
)
def endless(request: pytest.FixtureRequest) -> str:
    """A subscription that does not end by itself."""
    query: str = request.param
    return query
