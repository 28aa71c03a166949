"""Documents while their store is away, and repairs, in every store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.domain.ids import new_uuid
from app.runtime.clock import SystemClock
from app.secrets.reference import SecretReference
from app.settings import DatabaseSettings, VectorSettings, VectorStoreKind, VectorStoreSettings
from app.vectors.collections import NO_MODEL, Collection, Collections, NewCollection
from app.vectors.documents import Documents, NewChunk, NewDocument, text_sha256
from app.vectors.filters import filterable
from app.vectors.indexing import Indexing
from app.vectors.metrics import VectorMetrics
from app.vectors.registry import VectorStores, build_vector_stores
from app.vectors.repair import Repair
from app.vectors.store import Distance, IndexedChunk
from app.vectors.vector import vector_of
from simulator.pinecone.server import Fault
from tests.chroma_servers import ChromaServer
from tests.pinecone_simulators import RunningPinecone

pytestmark = pytest.mark.anyio
ASKED = vector_of([1.0, 0.0])
AWAY = Fault(status=500, path="/hosts/", count=None)
_AGE = text("update documents set changed_at = changed_at - interval '1 minute' where state = 'pending'")


@dataclass
class Kept:
    sessions: Sessions
    stores: VectorStores
    collections: Collections
    documents: Documents
    indexing: Indexing
    repair: Repair

    async def collection(self, store: str) -> Collection:
        new = NewCollection(f"in-{store}", store, NO_MODEL, 2, Distance.COSINE, shortened=True)
        collection = await self.collections.create("acme", new, self.collections.new_key())
        await self.stores.named(store).create(collection.index)
        return collection

    async def write(self, collection: Collection, *names: str) -> bool:
        """Returns False if they wait for their store."""
        versions = [version(name) for name in names]
        await self.documents.write(collection, versions)
        chunks = [IndexedChunk(each.chunks[0].key, each.chunks[0].vector, filterable(each.metadata)) for each in versions]
        return await self.indexing.put(collection, [each.key for each in versions], chunks)

    async def bring_up_to_date(self) -> None:
        """Does what a process does from time to time. Pending documents are old enough that no call works on them any more."""
        async with self.sessions.write() as session:
            await session.execute(_AGE)
        await self.indexing.run_once()

    async def shown(self, collection: Collection) -> list[str]:
        """The texts that a search shows."""
        chunks = await self.documents.read(collection, list(await self.found(collection)))
        return sorted(chunk.text for chunk in chunks.values())

    async def found(self, collection: Collection) -> set[UUID]:
        return {hit.key for hit in await self.stores.named(collection.store).search(collection.index, ASKED, 10)}


@dataclass(frozen=True)
class Outage:
    """`begun` makes the store not answer until the block ends."""

    store: str
    begun: Callable[[], AbstractContextManager[None]]


def version(name: str) -> NewDocument:
    now = datetime.now(UTC)
    chunk = NewChunk(new_uuid(now), 0, len(name), name, vector_of([0.3, float(len(name))]))
    return NewDocument(new_uuid(now), name, text_sha256(name), None, {"name": name, "share": 0.1, "deep": [1]}, None, (chunk,))


@pytest.fixture
async def kept(database_url: str, chroma_server: ChromaServer, pinecone: RunningPinecone, tmp_path: Path) -> AsyncIterator[Kept]:
    key, url = tmp_path / "key", tmp_path / "url"
    key.write_text("any", encoding="utf-8")
    url.write_text(chroma_server.url, encoding="utf-8")
    configured = (
        VectorStoreSettings(name="chroma", kind=VectorStoreKind.CHROMA, url=SecretReference(file=url)),
        VectorStoreSettings(
            name="pinecone", kind=VectorStoreKind.PINECONE, api_key=SecretReference(file=key), host=pinecone.address
        ),
    )
    engines = build_engines(database_url, [], DatabaseSettings())
    sessions, clock, metrics = Sessions(engines), SystemClock(), VectorMetrics(CollectorRegistry())
    stores = build_vector_stores(VectorSettings(stores=configured), sessions, clock, metrics)
    collections, documents = Collections(sessions, clock), Documents(sessions)
    indexing = Indexing(sessions, clock, stores, collections=collections, documents=documents, metrics=metrics)
    yield Kept(sessions, stores, collections, documents, indexing, Repair(sessions, stores, collections, documents))
    await stores.close()
    await engines.close()


async def test_documents_wait_for_their_store_and_others_are_not_affected(kept: Kept, pinecone: RunningPinecone) -> None:
    far, near = await kept.collection("pinecone"), await kept.collection("pgvector")
    assert await kept.write(far, "before")
    pinecone.fail(AWAY)

    assert not await kept.write(far, "while it is away")
    with pytest.raises(StoreUnavailable, match="pinecone"):
        await kept.found(far)
    assert await kept.write(near, "near")
    assert len(await kept.found(near)) == 1
    assert (await kept.documents.pending_counts()).get("pinecone") == 1


@contextmanager
def without_chroma(server: ChromaServer) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start_again()


@contextmanager
def without_pinecone(simulator: RunningPinecone) -> Iterator[None]:
    simulator.fail(AWAY)
    try:
        yield
    finally:
        simulator.reset_fault()


@pytest.fixture(params=["chroma", "pinecone"])
def outage(request: pytest.FixtureRequest, chroma_server: ChromaServer, pinecone: RunningPinecone) -> Outage:
    outages = {"chroma": partial(without_chroma, chroma_server), "pinecone": partial(without_pinecone, pinecone)}
    return Outage(request.param, outages[request.param])


async def test_what_was_written_while_a_store_was_away_goes_out_when_it_is_back(kept: Kept, outage: Outage) -> None:
    collection = await kept.collection(outage.store)
    assert await kept.write(collection, "stays", "replaced")
    before = await kept.found(collection)
    with outage.begun():
        assert not await kept.write(collection, "replaced", "new")
        await kept.bring_up_to_date()
        assert (await kept.documents.pending_counts())[outage.store] == 2
    assert await kept.found(collection) == before
    assert await kept.shown(collection) == ["replaced", "stays"]

    await kept.bring_up_to_date()

    assert (await kept.documents.pending_counts()).get(outage.store, 0) == 0
    assert await kept.shown(collection) == ["new", "replaced", "stays"]
    assert len(await kept.found(collection)) == 3
    assert (await kept.repair.compare(collection)).count == 0


@pytest.mark.parametrize("store", ["chroma", "pinecone"])
async def test_a_store_that_lost_its_index_gets_everything_back(kept: Kept, store: str) -> None:
    collection = await kept.collection(store)
    assert await kept.write(collection, "one", "two", "three")
    before = await kept.found(collection)
    assert (await kept.repair.compare(collection)).count == 0
    await kept.stores.named(store).drop(collection.index)

    drift = await kept.repair.compare(collection)
    assert set(drift.missing) == before
    await kept.repair.repair(collection, drift)

    assert await kept.found(collection) == before
    assert (await kept.repair.compare(collection)).count == 0
