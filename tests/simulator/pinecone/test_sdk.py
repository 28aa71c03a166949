"""The real SDK against the simulator of Pinecone."""

from __future__ import annotations

import pytest
from pinecone import AsyncPinecone
from pinecone.async_client.async_index import AsyncIndex
from pinecone.errors import (
    ApiError,
    ConflictError,
    NotFoundError,
    PineconeError,
    ServiceError,
    UnauthorizedError,
)
from pinecone.models.vectors.vector import ScoredVector

from simulator.pinecone.server import Fault
from tests.pinecone_simulators import RunningPinecone

pytestmark = pytest.mark.anyio


def found(matches: list[ScoredVector]) -> list[str]:
    return [match.id for match in matches]


class TestControlPlane:
    async def test_an_index_is_made_described_listed_and_deleted(self, client: AsyncPinecone, pinecone: RunningPinecone) -> None:
        schema = {"fields": {"_values": {"type": "dense_vector", "dimension": 3, "metric": "euclidean"}}}
        made = await client.indexes.create(name="one", schema=schema)

        described = await client.indexes.describe("one")
        assert (made.status.ready, described.host) == (True, f"{pinecone.address}/hosts/one")
        assert (described.dimension, described.metric) == (3, "euclidean")
        assert [each.name async for each in client.indexes.list()] == ["one"]
        await client.indexes.delete("one")
        assert not await client.indexes.exists("one")

    async def test_a_second_index_of_the_same_name_is_a_conflict(self, client: AsyncPinecone) -> None:
        schema = {"fields": {"_values": {"type": "dense_vector", "dimension": 3, "metric": "cosine"}}}
        await client.indexes.create(name="one", schema=schema)

        with pytest.raises(ConflictError):
            await client.indexes.create(name="one", schema=schema)

    @pytest.mark.parametrize("dimension", [0, 20_001])
    async def test_dimensions_outside_the_limits_are_refused(self, client: AsyncPinecone, dimension: int) -> None:
        schema = {"fields": {"_values": {"type": "dense_vector", "dimension": dimension, "metric": "cosine"}}}
        with pytest.raises(ApiError, match="Dimension"):
            await client.indexes.create(name="one", schema=schema)

    async def test_a_refused_key_is_unauthorized(self, pinecone: RunningPinecone) -> None:
        async with AsyncPinecone(api_key="refused", host=pinecone.address) as client:
            with pytest.raises(UnauthorizedError):
                await client.indexes.describe("one")


class TestRecords:
    async def test_what_was_written_is_found_fetched_listed_counted_and_deleted(self, index: AsyncIndex) -> None:
        vectors: list[dict[str, object]] = [
            {"id": "a", "values": [1.0, 0.0], "metadata": {"n": 1}},
            {"id": "b", "values": [0.6, 0.8]},
        ]
        assert (await index.upsert(vectors=vectors, namespace="room")).upserted_count == 2

        answer = await index.query(vector=[1.0, 0.0], top_k=5, namespace="room", include_metadata=True)
        assert found(answer.matches) == ["a", "b"]
        assert [match.score for match in answer.matches] == pytest.approx([1.0, 0.6])
        assert answer.matches[0].metadata == {"n": 1.0}
        fetched = await index.fetch(ids=["b", "c"], namespace="room")
        assert list(fetched.vectors) == ["b"]
        assert list(fetched.vectors["b"].values) == pytest.approx([0.6, 0.8])
        assert [[item.id for item in page.vectors] async for page in index.list(namespace="room", limit=1)] == [["a"], ["b"]]
        stats = await index.describe_index_stats()
        assert {name: summary.vector_count for name, summary in stats.namespaces.items()} == {"room": 2}
        await index.delete(ids=["a", "missing"], namespace="room")
        assert found((await index.query(vector=[1.0, 0.0], top_k=5, namespace="room")).matches) == ["b"]
        await index.delete_namespace(name="room")
        assert (await index.query(vector=[1.0, 0.0], top_k=5, namespace="room")).matches == []

    async def test_a_namespace_shows_nothing_of_another(self, index: AsyncIndex) -> None:
        await index.upsert(vectors=[("a", [1.0, 0.0])], namespace="one")
        await index.upsert(vectors=[("a", [0.0, 1.0])], namespace="two")

        await index.delete(ids=["a"], namespace="one")

        assert (await index.fetch(ids=["a"], namespace="one")).vectors == {}
        assert list((await index.fetch(ids=["a"], namespace="two")).vectors["a"].values) == [0.0, 1.0]
        assert [each.name async for page in index.list_namespaces() for each in page.namespaces] == ["one", "two"]

    async def test_a_delete_in_an_unknown_namespace_is_not_found(self, index: AsyncIndex) -> None:
        with pytest.raises(NotFoundError):
            await index.delete(ids=["a"], namespace="nowhere")

    async def test_a_delete_by_filter_is_refused(self, index: AsyncIndex) -> None:
        await index.upsert(vectors=[("a", [1.0, 0.0], {"n": 1})], namespace="room")

        with pytest.raises(ApiError, match="metadata filtering"):
            await index.delete(filter={"n": 1}, namespace="room")

    @pytest.mark.parametrize(
        ("vector", "message"),
        [
            ({"id": "a", "values": [1.0]}, "dimension"),
            ({"id": "a", "values": [0.0, 0.0]}, "non-zero"),
            ({"id": "a", "values": [1.0, 0.0], "metadata": {"x": None}}, "Metadata value"),
            ({"id": "a", "values": [1.0, 0.0], "metadata": {"x": {"deep": 1}}}, "Metadata value"),
            ({"id": "a", "values": [1.0, 0.0], "metadata": {"x": "y" * 41_000}}, "exceeds the limit"),
        ],
    )
    async def test_a_record_that_the_service_refuses_is_refused(
        self, index: AsyncIndex, vector: dict[str, object], message: str
    ) -> None:
        with pytest.raises(PineconeError, match=message):
            await index.upsert(vectors=[vector])

    async def test_more_than_a_thousand_records_at_once_are_refused(self, index: AsyncIndex) -> None:
        with pytest.raises(ApiError, match="1000"):
            await index.upsert(vectors=[(f"v{number}", [1.0, 0.0]) for number in range(1001)])

    async def test_a_request_of_more_than_two_megabytes_is_refused(self, index: AsyncIndex) -> None:
        with pytest.raises(ApiError, match="too large"):
            await index.upsert(vectors=[(f"v{number}", [1.0, 0.0], {"x": "y" * 3000}) for number in range(1000)])


RECORDS: list[tuple[str, list[float], dict[str, object]]] = [
    ("one", [1.0, 0.0], {"n": 1, "s": "x", "b": True}),
    ("two", [0.9, 0.1], {"n": 2, "s": "y", "b": False}),
    ("none", [0.8, 0.2], {}),
]


class TestFilters:
    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            ({"n": 1}, {"one"}),
            ({"n": {"$gte": 1, "$lt": 2}}, {"one"}),
            ({"b": True}, {"one"}),
            ({"s": {"$in": ["x", "y"]}}, {"one", "two"}),
            ({"s": {"$ne": "x"}}, {"two"}),
            ({"s": {"$nin": ["x"]}}, {"two"}),
            ({"s": {"$exists": False}}, {"none"}),
            ({"$or": [{"n": 1}, {"s": {"$exists": False}}]}, {"one", "none"}),
            ({"$and": [{"n": {"$gt": 0}}, {"s": "y"}]}, {"two"}),
        ],
    )
    async def test_only_matching_records_are_found(self, index: AsyncIndex, where: dict[str, object], expected: set[str]) -> None:
        await index.upsert(vectors=RECORDS)

        answer = await index.query(vector=[1.0, 0.0], top_k=10, filter=where)

        assert set(found(answer.matches)) == expected

    @pytest.mark.parametrize("where", [{"n": {"$near": 1}}, {"n": {"$gt": "x"}}, {"$not": [{"n": 1}]}, {"$or": []}, {"n": {}}])
    async def test_what_is_not_a_filter_is_refused(self, index: AsyncIndex, where: dict[str, object]) -> None:
        with pytest.raises(ApiError):
            await index.query(vector=[1.0, 0.0], top_k=10, filter=where)


class TestDelays:
    async def test_held_writes_are_read_after_they_are_shown(self, index: AsyncIndex, pinecone: RunningPinecone) -> None:
        await index.upsert(vectors=[("a", [1.0, 0.0])], namespace="room")
        pinecone.show_writes(held=True)
        await index.upsert(vectors=[("b", [1.0, 0.0])], namespace="room")
        await index.delete(ids=["a"], namespace="room")
        assert found((await index.query(vector=[1.0, 0.0], top_k=5, namespace="room")).matches) == ["a"]

        pinecone.show_writes()

        assert found((await index.query(vector=[1.0, 0.0], top_k=5, namespace="room")).matches) == ["b"]
        assert list(pinecone.state()["greenlang-2-cosine"]["room"]) == ["b"]

    async def test_a_fault_that_lasts_gets_through_the_retries_of_the_sdk(
        self, index: AsyncIndex, pinecone: RunningPinecone
    ) -> None:
        pinecone.fail(Fault(status=500, path="/query", count=None))
        with pytest.raises(ServiceError):
            await index.query(vector=[1.0, 0.0], top_k=5)

        pinecone.reset()

        assert pinecone.log() == []
