"""The store in PostgreSQL: exact search, the index of a large collection, and that a filter never starves a search."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import Refused
from app.domain.problems import InvalidInput
from app.settings import DatabaseSettings
from app.vectors.filters import FieldTest, MetadataOperator
from app.vectors.pgvector import PgVector
from app.vectors.store import Distance, Index, IndexedChunk, Vector
from app.vectors.vector import vector_of

pytestmark = pytest.mark.anyio
DIMENSIONS = 8


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    engines = build_engines(database_url, [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


@pytest.fixture
async def store(sessions: Sessions) -> AsyncIterator[PgVector]:
    store = PgVector(sessions)
    yield store
    await store.close()


def index_of(dimensions: int = DIMENSIONS, distance: Distance = Distance.COSINE) -> Index:
    return Index(uuid4(), "acme", dimensions, distance)


def random_chunks(count: int, dimensions: int = DIMENSIONS) -> list[IndexedChunk]:
    chance = random.Random(7)
    return [
        IndexedChunk(
            UUID(int=number + 1),
            vector_of([chance.gauss(0, 1) for _ in range(dimensions)]),
            {"number": number, "rare": number % 100},
        )
        for number in range(count)
    ]


def nearest(chunks: Sequence[IndexedChunk], vector: Vector, count: int) -> list[UUID]:
    def cosine(chunk: IndexedChunk) -> float:
        dot = sum(a * b for a, b in zip(chunk.vector, vector, strict=True))
        return dot / math.hypot(*chunk.vector)

    return [chunk.key for chunk in sorted(chunks, key=lambda chunk: -cosine(chunk))[:count]]


async def test_an_upsert_of_the_same_chunk_replaces_it(store: PgVector) -> None:
    index = index_of(2)
    await store.create(index)
    await store.create(index)
    for numbers in ([1.0, 0.0], [0.0, 1.0]):
        await store.upsert(index, [IndexedChunk(UUID(int=1), vector_of(numbers), {"a": numbers[0]})])
    assert [chunk async for page in store.read(index) for chunk in page] == [
        IndexedChunk(UUID(int=1), vector_of([0.0, 1.0]), {"a": 0.0})
    ]
    await store.delete(index, [UUID(int=1), UUID(int=2)])
    assert await store.search(index, vector_of([0.0, 1.0]), 5) == []


async def test_two_processes_that_make_one_index_both_succeed(store: PgVector, sessions: Sessions) -> None:
    index = index_of()
    made = text("select make_vector_table(:key, :dimensions)")
    async with sessions.write() as other:
        await other.execute(made, {"key": index.key, "dimensions": index.dimensions})
        later = asyncio.create_task(store.create(index))
        while not await _waits_for_a_lock(sessions):
            assert not later.done()
            await asyncio.sleep(0.01)
    await later
    await store.upsert(index, random_chunks(1))
    assert len(await store.search(index, random_chunks(1)[0].vector, 1)) == 1


async def _waits_for_a_lock(sessions: Sessions) -> bool:
    waiting = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like '%make_vector_table%')"
    async with sessions.statements() as session:
        return bool((await session.execute(text(waiting))).scalar_one())


async def test_an_index_that_is_not_there_is_empty(store: PgVector) -> None:
    index = index_of()
    await store.drop(index)
    await store.delete(index, [UUID(int=1)])
    assert await store.search(index, vector_of([1.0] * DIMENSIONS), 5) == []
    assert [page async for page in store.read(index)] == []


@pytest.mark.parametrize(
    ("distance", "scores"),
    [
        (Distance.COSINE, [1.0, 0.0, 0.0]),
        (Distance.EUCLIDEAN, [1.0, 1 / 3, 1 / (1 + 2**0.5)]),
        (Distance.DOT, [1.0, 0.0, -1.0]),
    ],
)
async def test_scores_of_the_same_opposite_and_upright_vector(store: PgVector, distance: Distance, scores: list[float]) -> None:
    index = index_of(2, distance)
    await store.create(index)
    vectors = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]
    await store.upsert(index, [IndexedChunk(UUID(int=n + 1), vector_of(v), {}) for n, v in enumerate(vectors)])
    hits = await store.search(index, vector_of([1.0, 0.0]), 5)
    assert sorted((hit.score for hit in hits), reverse=True) == pytest.approx(sorted(scores, reverse=True))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].key == UUID(int=1)


@pytest.mark.parametrize("dimensions", [1900, 2001, 4000])
async def test_long_vectors_are_stored_and_indexed(sessions: Sessions, dimensions: int) -> None:
    store = PgVector(sessions, index_from_bytes=0, exact_up_to_bytes=0)
    index, chunks = index_of(dimensions), random_chunks(20, dimensions)
    await store.create(index)
    await store.upsert(index, chunks)
    await wait_for_index(store, sessions, index)
    assert [hit.key for hit in await store.search(index, chunks[3].vector, 1)] == [chunks[3].key]
    await store.close()


async def wait_for_index(store: PgVector, sessions: Sessions, index: Index) -> None:
    await store.finished_indexing()
    async with sessions.read() as session:
        found = await session.execute(text(f"select to_regclass('vectors.{index.name}_hnsw')"))
        assert found.scalar_one() is not None


class TestLargeCollections:
    @pytest.fixture
    async def large(self, sessions: Sessions) -> AsyncIterator[PgVector]:
        store = PgVector(sessions, index_from_bytes=0, exact_up_to_bytes=0)
        yield store
        await store.close()

    @pytest.fixture
    async def index(self, large: PgVector, sessions: Sessions) -> Index:
        index = index_of()
        await large.create(index)
        await large.upsert(index, random_chunks(3000))
        await wait_for_index(large, sessions, index)
        return index

    async def test_are_searched_by_their_index(self, large: PgVector, index: Index) -> None:
        chunks = random_chunks(3000)
        found = [hit.key for hit in await large.search(index, chunks[5].vector, 10)]
        assert len(set(found) & set(nearest(chunks, chunks[5].vector, 10))) >= 9

    async def test_give_all_hits_that_a_rare_filter_leaves(self, large: PgVector, index: Index) -> None:
        where = FieldTest("rare", MetadataOperator.EQ, 42)
        matching = [chunk for chunk in random_chunks(3000) if chunk.metadata["rare"] == 42]
        found = await large.search(index, random_chunks(1)[0].vector, 10, where)
        assert len(found) == 10
        assert {hit.key for hit in found} <= {chunk.key for chunk in matching}
        assert len(await large.search(index, random_chunks(1)[0].vector, 100, where)) == 30

    async def test_take_further_chunks(self, large: PgVector, index: Index) -> None:
        await large.upsert(index, [IndexedChunk(UUID(int=9999), vector_of([5.0] * DIMENSIONS), {})])
        assert (await large.search(index, vector_of([1.0] * DIMENSIONS), 1))[0].key == UUID(int=9999)


async def test_without_the_extension_a_collection_is_refused_in_words(database_url: str, postgres_owner_url: str) -> None:
    name = f"bare_{uuid4().hex}"
    owner = await asyncpg.connect(postgres_owner_url)
    await owner.execute(f"create database {name} template template0")
    engines = build_engines(database_url.rpartition("/")[0] + f"/{name}", [], DatabaseSettings())
    try:
        with pytest.raises(Refused) as refused:
            await PgVector(Sessions(engines)).create(index_of())
        assert isinstance(refused.value.reason, InvalidInput)
        assert "needs the extension vector" in refused.value.reason.message
    finally:
        await engines.close()
        await owner.execute(f"drop database {name} with (force)")
        await owner.close()
