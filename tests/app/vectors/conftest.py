"""The vector stores: Chroma as a real server, Pinecone as the simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from app.vectors.store import VectorStore
from tests.app.vectors.opened_stores import KINDS, StoreKind, opened
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


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> StoreKind:
    found: StoreKind = request.param
    return found


@pytest.fixture
def address(kind: StoreKind, request: pytest.FixtureRequest) -> str:
    """Only the store that is asked for is started."""
    match kind:
        case "pgvector":
            found: str = request.getfixturevalue("database_url")
            return found
        case "chroma":
            server: ChromaServer = request.getfixturevalue("chroma_server")
            return server.url
        case "pinecone":
            simulator: RunningPinecone = request.getfixturevalue("pinecone")
            return simulator.address


@pytest.fixture
async def store(kind: StoreKind, address: str) -> AsyncIterator[VectorStore]:
    async with opened(kind, address) as store:
        yield store
