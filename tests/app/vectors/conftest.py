"""The vector stores: Chroma as a real server, Pinecone as the simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from app.vectors.store import VectorStore
from tests.app.vectors.opened_stores import KINDS, StoreAddresses, StoreKind
from tests.chroma_servers import ChromaServer, start_chroma
from tests.pinecone_simulators import RunningPinecone, start_pinecone


@pytest.fixture(scope="session")
def chroma_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with start_chroma(tmp_path_factory.mktemp("chroma")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_pinecone() -> Iterator[RunningPinecone]:
    with start_pinecone() as running:
        yield running


@pytest.fixture
def pinecone(shared_pinecone: RunningPinecone) -> RunningPinecone:
    shared_pinecone.reset()
    return shared_pinecone


@pytest.fixture
def addresses(request: pytest.FixtureRequest) -> StoreAddresses:
    """Only the store that is asked for is started."""
    return StoreAddresses(request.getfixturevalue)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> StoreKind:
    found: StoreKind = request.param
    return found


@pytest.fixture
async def store(kind: StoreKind, addresses: StoreAddresses) -> AsyncIterator[VectorStore]:
    async with addresses.opened(kind) as store:
        yield store
