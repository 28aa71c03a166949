from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from pinecone import AsyncPinecone
from pinecone.async_client.async_index import AsyncIndex

from tests.pinecone_simulators import RunningPinecone, start_pinecone


@pytest.fixture(scope="session")
def shared_pinecone() -> Iterator[RunningPinecone]:
    with start_pinecone() as running:
        yield running


@pytest.fixture
def pinecone(shared_pinecone: RunningPinecone) -> RunningPinecone:
    shared_pinecone.reset()
    return shared_pinecone


@pytest.fixture
async def client(pinecone: RunningPinecone) -> AsyncIterator[AsyncPinecone]:
    async with AsyncPinecone(api_key="any", host=pinecone.address) as client:
        yield client


@pytest.fixture
async def index(client: AsyncPinecone) -> AsyncIterator[AsyncIndex]:
    """Two dimensions, cosine."""
    schema = {"fields": {"_values": {"type": "dense_vector", "dimension": 2, "metric": "cosine"}}}
    created = await client.indexes.create(name="greenlang-2-cosine", schema=schema)
    assert created.host is not None
    async with await client.index(host=created.host) as opened:
        yield opened
