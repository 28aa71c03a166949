"""What is the same in all vector stores."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from app.vectors.filters import AllOf, AnyOf, FieldTest, Filter, MetadataOperator, NoneOf, Scalar, matches
from app.vectors.store import Distance, IndexedChunk, Vector, VectorStore
from app.vectors.vector import vector_of
from tests.app.vectors.opened_stores import everything, index_of, random_chunks

pytestmark = pytest.mark.anyio
RARE = FieldTest("rare", MetadataOperator.EQ, 42)


def chunk(number: int, vector: Sequence[float], **metadata: Scalar) -> IndexedChunk:
    return IndexedChunk(UUID(int=number), vector_of(vector), metadata)


def score(distance: Distance, one: Vector, other: Vector) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    match distance:
        case Distance.COSINE:
            return max(0.0, product / (math.hypot(*one) * math.hypot(*other)))
        case Distance.EUCLIDEAN:
            return 1 / (1 + math.dist(one, other))
        case Distance.DOT:
            return product


class TestWrites:
    async def test_the_same_chunk_again_replaces_vector_and_metadata(self, store: VectorStore) -> None:
        index = index_of(2)
        await store.create(index)
        await store.create(index)
        await store.upsert(index, [chunk(1, [1, 0], old=1, kept="x", both=True)])
        await store.upsert(index, [chunk(1, [0, 1], kept="y", both=2)])

        assert await everything(store, index) == [chunk(1, [0, 1], kept="y", both=2)]
        for gone in ({"old": 1}, {"kept": "x"}, {"both": True}):
            [(field, value)] = gone.items()
            where = FieldTest(field, MetadataOperator.EQ, value)
            assert await store.search(index, vector_of([1, 0]), 5, where) == []

    async def test_metadata_can_be_taken_away(self, store: VectorStore) -> None:
        index = index_of(2)
        await store.create(index)
        await store.upsert(index, [chunk(1, [1, 0], a=1)])
        await store.upsert(index, [chunk(1, [1, 0])])

        assert await everything(store, index) == [chunk(1, [1, 0])]

    async def test_deleted_chunks_are_gone_and_unknown_keys_do_not_matter(self, store: VectorStore) -> None:
        index = index_of(2)
        await store.create(index)
        await store.upsert(index, [chunk(number, [1, number]) for number in range(1, 5)])
        await store.delete(index, [UUID(int=2), UUID(int=4), uuid4()])
        await store.delete(index, [UUID(int=2)])

        assert [hit.key.int for hit in await store.search(index, vector_of([1, 0]), 9)] == [1, 3]

    async def test_an_index_that_is_not_there_is_empty(self, store: VectorStore) -> None:
        index = index_of()
        await store.drop(index)
        await store.delete(index, [UUID(int=1)])

        assert await store.search(index, vector_of([1.0] * 8), 5) == []
        assert await everything(store, index) == []

    async def test_a_dropped_index_can_be_made_again(self, store: VectorStore) -> None:
        index = index_of(2)
        await store.create(index)
        await store.upsert(index, [chunk(1, [1, 0])])
        await store.drop(index)
        await store.drop(index)
        assert await store.search(index, vector_of([1, 0]), 5) == []
        await store.create(index)
        await store.upsert(index, [chunk(2, [1, 0])])

        assert [hit.key.int for hit in await store.search(index, vector_of([1, 0]), 5)] == [2]

    async def test_several_callers_make_indexes_of_one_tenant_and_write_at_once(self, store: VectorStore) -> None:
        indexes = [index_of(2, tenant="another") for _ in range(4)]
        await asyncio.gather(*(store.create(index) for index in indexes))
        written = [(index, number) for index in indexes for number in range(1, 6)]
        await asyncio.gather(*(store.upsert(index, [chunk(number, [1, number])]) for index, number in written))

        assert [len(await everything(store, index)) for index in indexes] == [5, 5, 5, 5]

    async def test_everything_is_read_page_by_page(self, store: VectorStore) -> None:
        index, chunks = index_of(), random_chunks(2100)
        await store.create(index)
        await store.upsert(index, chunks)

        read = await everything(store, index)
        assert [(each.key, each.metadata) for each in read] == [(each.key, each.metadata) for each in chunks]
        assert all(math.dist(one.vector, other.vector) < 1e-5 for one, other in zip(read, chunks, strict=True))


class TestSizes:
    async def test_the_longest_vectors_are_stored_and_found(self, store: VectorStore) -> None:
        index = index_of(store.max_dimensions)
        chunks = random_chunks(3, store.max_dimensions)
        await store.create(index)
        await store.upsert(index, chunks)

        assert [hit.key for hit in await store.search(index, chunks[1].vector, 1)] == [chunks[1].key]

    @pytest.mark.parametrize("distance", [Distance.EUCLIDEAN, Distance.DOT])
    async def test_a_vector_of_zeros_is_stored_and_searched_for(self, store: VectorStore, distance: Distance) -> None:
        index = index_of(2, distance)
        await store.create(index)
        await store.upsert(index, [chunk(1, [0, 0]), chunk(2, [3, 4])])

        hits = await store.search(index, vector_of([0, 0]), 5)
        expected = [1.0, 1 / 6] if distance is Distance.EUCLIDEAN else [0.0, 0.0]
        assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-6)
        assert await everything(store, index) == [chunk(1, [0, 0]), chunk(2, [3, 4])]

    async def test_large_metadata_holds_up_nothing_and_loses_no_hit(self, store: VectorStore) -> None:
        index = index_of(2)
        await store.create(index)
        large: dict[str, Scalar] = {f"field {number}": "x" * 20 for number in range(1000)}
        await store.upsert(index, [chunk(1, [1, 0], **large), chunk(2, [1, 0], small=True)])

        assert len(await store.search(index, vector_of([1, 0]), 5)) == 2
        for where in (FieldTest("field 7", MetadataOperator.EQ, "x" * 20), FieldTest("field 7", MetadataOperator.GT, "w")):
            hits = await store.search(index, vector_of([1, 0]), 5, where)
            assert [hit.key.int for hit in hits] == [1]


class TestScores:
    @pytest.mark.parametrize("distance", list(Distance))
    async def test_are_those_of_the_definition_best_first(self, store: VectorStore, distance: Distance) -> None:
        index, chunks, asked = index_of(8, distance), random_chunks(60), random_chunks(1, seed=3)[0].vector
        await store.create(index)
        await store.upsert(index, chunks)

        hits = await store.search(index, asked, 60)

        expected = {each.key: score(distance, each.vector, asked) for each in chunks}
        assert {hit.key: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    async def test_a_cosine_below_zero_is_zero(self, store: VectorStore) -> None:
        index = index_of(2)
        await store.create(index)
        await store.upsert(index, [chunk(1, [-1, 0]), chunk(2, [0, 1]), chunk(3, [1, 0])])

        hits = await store.search(index, vector_of([1, 0]), 5)

        assert [(hit.key.int, hit.score) for hit in hits] == [(3, 1.0), (1, 0.0), (2, 0.0)]

    @pytest.mark.parametrize("distance", list(Distance))
    async def test_ties_are_ordered_by_key_also_at_the_end(self, store: VectorStore, distance: Distance) -> None:
        index = index_of(2, distance)
        await store.create(index)
        same = [chunk(number, [0.6, 0.8]) for number in range(40, 0, -1)]
        await store.upsert(index, [*same, chunk(99, [6, 8] if distance is Distance.DOT else [1, 0])])

        asked = vector_of([0.6, 0.8] if distance is Distance.DOT else [1, 0])
        found = [hit.key.int for hit in await store.search(index, asked, 8)]

        assert found == [99, 1, 2, 3, 4, 5, 6, 7]


class TestCounts:
    """`count` hits are returned whenever so many match."""

    @pytest.mark.parametrize(
        ("where", "matching"),
        [
            (None, 2000),
            (FieldTest("common", MetadataOperator.EQ, 4), 200),
            (RARE, 20),
            (AllOf((RARE, FieldTest("common", MetadataOperator.EQ, 3))), 0),
            (NoneOf((FieldTest("rare", MetadataOperator.LT, 99),)), 20),
            (FieldTest("word", MetadataOperator.GTE, "w98"), 40),
            (AnyOf((RARE, FieldTest("word", MetadataOperator.LT, "w01"))), 40),
        ],
    )
    async def test_hold_with_any_filter(self, store: VectorStore, where: Filter | None, matching: int) -> None:
        index, chunks = index_of(), random_chunks(2000)
        await store.create(index)
        await store.upsert(index, chunks)

        for count in (10, 100):
            hits = await store.search(index, random_chunks(1, seed=5)[0].vector, count, where)
            assert len(hits) == min(count, matching)
            allowed = {each.key for each in chunks if matches(where, each.metadata)}
            assert {hit.key for hit in hits} <= allowed

    async def test_hold_for_twenty_tenants_in_one_store(self, store: VectorStore) -> None:
        indexes = [index_of(tenant=f"tenant {number}") for number in range(20)]
        for number, index in enumerate(indexes):
            await store.create(index)
            await store.upsert(index, random_chunks(110, seed=number))

        for index in indexes:
            assert len(await store.search(index, vector_of([1.0] * 8), 100)) == 100
            assert len(await store.search(index, vector_of([1.0] * 8), 2, RARE)) == 1

    async def test_a_thousand_words_with_the_same_beginning_do_not_hide_the_one_that_matches(self, store: VectorStore) -> None:
        index = index_of(2)
        await store.create(index)
        chunks = [chunk(number, [1, 0], word=f"beginning {number:04}") for number in range(1, 1501)]
        await store.upsert(index, [*chunks, chunk(5000, [0, 1], word="beginning z")])

        where = FieldTest("word", MetadataOperator.GT, "beginning 9")
        assert [hit.key.int for hit in await store.search(index, vector_of([1, 0]), 10, where)] == [5000]
