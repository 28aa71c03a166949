"""The store Pinecone against the real service, with the key of the environment. Reads are late there, so each is awaited."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from pinecone import AsyncPinecone

from app.domain.errors import StoreUnavailable
from app.vectors.filters import AnyOf, FieldTest, Filter, MetadataOperator, NoneOf, matches
from app.vectors.pinecone import Pinecone
from app.vectors.store import Distance, Index, IndexedChunk
from app.vectors.vector import vector_of

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not os.environ.get("PINECONE_API_KEY"), reason="needs PINECONE_API_KEY"),
]
HOST = "https://api.pinecone.io"
PREFIX = f"greenlang-test-{uuid4().hex[:6]}"
CHUNKS = [
    IndexedChunk(UUID(int=1), vector_of([1, 0]), {"n": 1, "s": "b", "b": True}),
    IndexedChunk(UUID(int=2), vector_of([0.9, 0.1]), {"n": 2, "s": "a"}),
    IndexedChunk(UUID(int=3), vector_of([0, 1]), {}),
]
FILTERS: list[Filter] = [
    FieldTest("n", MetadataOperator.EQ, 1),
    FieldTest("n", MetadataOperator.NE, 1),
    FieldTest("b", MetadataOperator.NE, True),
    FieldTest("s", MetadataOperator.GT, "a"),
    FieldTest("n", MetadataOperator.IN, (1, 3)),
    NoneOf((FieldTest("n", MetadataOperator.GTE, 2),)),
    AnyOf((FieldTest("n", MetadataOperator.EQ, 1), FieldTest("s", MetadataOperator.EQ, "a"))),
]


@pytest.fixture
async def store() -> AsyncIterator[Pinecone]:
    key = os.environ["PINECONE_API_KEY"]
    store = Pinecone("pinecone", key, HOST, PREFIX, 30)
    yield store
    await store.close()
    async with AsyncPinecone(api_key=key, host=HOST) as client:
        names = [index.name async for index in client.indexes.list()]
        for name in names:
            if name.startswith(PREFIX):
                await client.indexes.delete(name)


async def found(store: Pinecone, index: Index, expected: set[int], where: Filter | None = None) -> set[int]:
    """Waits until it is as expected."""
    deadline = time.monotonic() + 60
    while True:
        hits = {hit.key.int for hit in await store.search(index, vector_of([1, 0]), 10, where)}
        if hits == expected or time.monotonic() > deadline:
            return hits
        await asyncio.sleep(1)


async def test_what_was_written_is_found_by_every_filter_and_deleted(store: Pinecone) -> None:
    index = Index(uuid4(), "acme", 2, Distance.COSINE)
    deadline = time.monotonic() + 120
    while True:
        try:
            await store.create(index)
            break
        except StoreUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(2)
    await store.upsert(index, CHUNKS)

    assert await found(store, index, {1, 2, 3}) == {1, 2, 3}
    for where in FILTERS:
        expected = {chunk.key.int for chunk in CHUNKS if matches(where, chunk.metadata)}
        assert await found(store, index, expected, where) == expected
    await store.delete(index, [UUID(int=2)])
    assert await found(store, index, {1, 3}) == {1, 3}
    await store.drop(index)
    assert await found(store, index, set()) == set()
