"""A store that has lost, changed or gained chunks, compared with the database and put right without an embedding."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.ids import new_uuid
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, VectorSettings
from app.vectors.collections import NO_MODEL, Collection, Collections, NewCollection
from app.vectors.documents import Documents, NewChunk, NewDocument, text_sha256
from app.vectors.filters import filterable
from app.vectors.indexing import Indexing
from app.vectors.metrics import VectorMetrics
from app.vectors.registry import build_vector_stores
from app.vectors.repair import Repair
from app.vectors.store import Distance, IndexedChunk, VectorStore
from app.vectors.vector import vector_of

pytestmark = pytest.mark.anyio


@dataclass
class Kept:
    sessions: Sessions
    collections: Collections
    documents: Documents
    indexing: Indexing
    repair: Repair
    store: VectorStore
    collection: Collection

    async def write(self, *names: str) -> list[UUID]:
        """Writes documents of one chunk each, and returns the keys of the chunks."""
        versions = [version(name) for name in names]
        await self.documents.write(self.collection, versions)
        chunks = [IndexedChunk(each.chunks[0].key, each.chunks[0].vector, filterable(each.metadata)) for each in versions]
        assert await self.indexing.put(self.collection, [each.key for each in versions], chunks)
        return [chunk.key for chunk in chunks]

    async def in_store(self) -> set[UUID]:
        return {chunk.key async for page in self.store.read(self.collection.index) for chunk in page}


def version(name: str) -> NewDocument:
    now = datetime.now(UTC)
    chunk = NewChunk(new_uuid(now), 0, len(name), name, vector_of([1.0, float(len(name))]))
    return NewDocument(new_uuid(now), name, text_sha256(name), None, {"name": name, "deep": [1]}, None, (chunk,))


@pytest.fixture
async def kept(database_url: str) -> AsyncIterator[Kept]:
    engines = build_engines(database_url, [], DatabaseSettings())
    sessions, clock, metrics = Sessions(engines), SystemClock(), VectorMetrics(CollectorRegistry())
    stores = build_vector_stores(VectorSettings(), sessions, clock, metrics)
    collections, documents = Collections(sessions, clock), Documents(sessions)
    new = NewCollection("docs", "pgvector", NO_MODEL, 2, Distance.COSINE, shortened=True)
    collection = await collections.create("acme", new, collections.new_key())
    store = stores.named("pgvector")
    await store.create(collection.index)
    indexing = Indexing(sessions, clock, stores, collections=collections, documents=documents, metrics=metrics)
    yield Kept(sessions, collections, documents, indexing, Repair(sessions, stores, collections, documents), store, collection)
    await stores.close()
    await engines.close()


async def test_a_store_that_has_everything_does_not_differ(kept: Kept) -> None:
    await kept.write("one", "two")
    assert (await kept.repair.compare(kept.collection)).count == 0


async def test_what_differs_is_found_and_put_right(kept: Kept) -> None:
    lost, turned, relabelled, good = await kept.write("lost", "turned", "relabelled", "good")
    foreign = uuid4()
    table = f"vectors.{kept.collection.index.name}"
    async with kept.sessions.write() as session:
        await session.execute(text(f"delete from {table} where chunk = :key"), {"key": lost})
        await session.execute(text(f"update {table} set embedding = '[9,-9]' where chunk = :key"), {"key": turned})
        await session.execute(text(f"update {table} set metadata = '{{}}' where chunk = :key"), {"key": relabelled})
        values = {"key": good, "foreign": foreign}
        await session.execute(
            text(f"insert into {table} select :foreign, embedding, metadata from {table} where chunk = :key"), values
        )
    drift = await kept.repair.compare(kept.collection)
    assert (drift.missing, set(drift.changed), drift.foreign) == ((lost,), {turned, relabelled}, (foreign,))
    assert await kept.documents.drift_counts() == {"pgvector": 4}
    await kept.repair.repair(kept.collection, drift)
    assert (await kept.repair.compare(kept.collection)).count == 0
    assert await kept.in_store() == {lost, turned, relabelled, good}
    assert await kept.documents.drift_counts() == {"pgvector": 0}


async def test_an_index_that_is_gone_is_made_again(kept: Kept) -> None:
    keys = await kept.write("one", "two")
    await kept.store.drop(kept.collection.index)
    drift = await kept.repair.compare(kept.collection)
    assert set(drift.missing) == set(keys)
    await kept.repair.repair(kept.collection, drift)
    assert await kept.in_store() == set(keys)


async def test_pending_and_deleted_documents_are_no_differences(kept: Kept) -> None:
    await kept.write("deleted", "kept")
    await kept.documents.write(kept.collection, [version("pending")])
    assert await kept.documents.delete(kept.collection, ["deleted"]) == 1
    assert (await kept.repair.compare(kept.collection)).count == 0
    await kept.indexing.run_once()
    assert len(await kept.in_store()) == 1


async def test_a_pending_document_of_a_call_that_was_killed_goes_out_later(kept: Kept) -> None:
    await kept.documents.write(kept.collection, [version("pending")])
    assert await kept.documents.pending_counts() == {"pgvector": 1}
    await kept.indexing.run_once()
    assert await kept.in_store() == set()
    async with kept.sessions.write() as session:
        await session.execute(text("update documents set changed_at = now() - interval '1 minute'"))
    await kept.indexing.run_once()
    assert len(await kept.in_store()) == 1
    assert await kept.documents.pending_counts() == {}
