"""Documents while their store is away, and repairs, in every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

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


@dataclass
class Kept:
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

    async def found(self, collection: Collection) -> set[UUID]:
        return {hit.key for hit in await self.stores.named(collection.store).search(collection.index, ASKED, 10)}


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
    yield Kept(stores, collections, documents, indexing, Repair(sessions, stores, collections, documents))
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
