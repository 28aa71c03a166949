"""A store that is away, silent or emptied: in time, and as StoreUnavailable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.domain.errors import StoreUnavailable
from app.vectors.chroma import Chroma
from app.vectors.pinecone import Pinecone
from app.vectors.store import VectorStore
from app.vectors.vector import vector_of
from simulator.pinecone.server import Fault
from tests.app.vectors.opened_stores import everything, index_of, random_chunks
from tests.chroma_servers import start_chroma
from tests.pinecone_simulators import RunningPinecone

pytestmark = pytest.mark.anyio
NOWHERE = "http://127.0.0.1:1"
ASKED = vector_of([1.0] * 8)


@pytest.fixture(params=["chroma", "pinecone"])
async def nowhere(request: pytest.FixtureRequest) -> AsyncIterator[VectorStore]:
    is_chroma = request.param == "chroma"
    store: VectorStore = Chroma("far", NOWHERE, 5) if is_chroma else Pinecone("far", "any", NOWHERE, "greenlang", 5)
    yield store
    await store.close()


@pytest.fixture
async def stored(pinecone: RunningPinecone) -> AsyncIterator[Pinecone]:
    store = Pinecone("pinecone", "any", pinecone.address, "greenlang", 1)
    yield store
    await store.close()


async def test_every_call_to_a_store_that_is_not_there_is_unavailable(nowhere: VectorStore) -> None:
    index, chunks = index_of(), random_chunks(2)
    for call in (
        nowhere.create(index),
        nowhere.upsert(index, chunks),
        nowhere.delete(index, [chunks[0].key]),
        nowhere.search(index, ASKED, 1),
        nowhere.drop(index),
        nowhere.check(),
        everything(nowhere, index),
    ):
        with pytest.raises(StoreUnavailable) as unavailable:
            await call
        assert unavailable.value.store == "far"


async def test_a_killed_chroma_has_what_was_written_and_works_on_through_the_same_client(tmp_path: Path) -> None:
    with start_chroma(tmp_path) as server:
        store, index, chunks = Chroma("chroma", server.url, 10), index_of(), random_chunks(40)
        await store.create(index)
        await store.upsert(index, chunks)

        server.kill()
        with pytest.raises(StoreUnavailable):
            await store.search(index, ASKED, 5)
        server.start_again()

        assert len(await store.search(index, ASKED, 40)) == 40
        await store.upsert(index, random_chunks(60))
        assert len(await everything(store, index)) == 60
        await store.close()


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_an_answer_with_an_error_is_unavailable(stored: Pinecone, pinecone: RunningPinecone, status: int) -> None:
    index = index_of()
    await stored.create(index)
    await stored.upsert(index, random_chunks(3))
    pinecone.fail(Fault(status=status, path="/query", count=None))
    with pytest.raises(StoreUnavailable):
        await stored.search(index, ASKED, 1)

    pinecone.fail(Fault(path="nothing"))
    assert len(await stored.search(index, ASKED, 1)) == 1


async def test_an_index_that_vanished_is_made_again_by_the_next_write(stored: Pinecone, pinecone: RunningPinecone) -> None:
    index = index_of()
    await stored.create(index)
    await stored.upsert(index, random_chunks(3))
    pinecone.reset()
    assert await stored.search(index, ASKED, 1) == []
    assert await everything(stored, index) == []
    await stored.delete(index, [random_chunks(1)[0].key])

    await stored.upsert(index, random_chunks(5))

    assert len(await everything(stored, index)) == 5


async def test_late_reads_show_the_earlier_state_and_fail_nothing(stored: Pinecone, pinecone: RunningPinecone) -> None:
    index, chunks = index_of(), random_chunks(6)
    await stored.create(index)
    await stored.upsert(index, chunks[:3])
    pinecone.show_writes(held=True)
    await stored.upsert(index, chunks[3:])
    await stored.delete(index, [chunks[0].key])
    assert {hit.key for hit in await stored.search(index, ASKED, 9)} == {chunk.key for chunk in chunks[:3]}

    pinecone.show_writes()

    assert {hit.key for hit in await stored.search(index, ASKED, 9)} == {chunk.key for chunk in chunks[1:]}


async def test_deletes_name_records_and_never_a_filter(stored: Pinecone, pinecone: RunningPinecone) -> None:
    index = index_of()
    await stored.create(index)
    await stored.upsert(index, random_chunks(2500))
    await stored.delete(index, [chunk.key for chunk in random_chunks(2400)])

    assert len(await everything(stored, index)) == 100
    deletes = [entry for entry in pinecone.log() if entry.path.endswith("/vectors/delete")]
    assert [entry.status for entry in deletes] == [200, 200, 200]
    assert {entry.namespace for entry in deletes} == {index.name}


async def test_indexes_of_a_dimension_and_distance_share_one_and_names_are_ours(
    stored: Pinecone, pinecone: RunningPinecone
) -> None:
    hostile = index_of(tenant="../acme'; --")
    for index in (hostile, index_of(), index_of(4)):
        await stored.create(index)
        await stored.upsert(index, random_chunks(1, index.dimensions))

    state = pinecone.state()
    assert sorted(state) == ["greenlang-4-cosine", "greenlang-8-cosine"]
    assert len(state["greenlang-8-cosine"]) == 2
    assert hostile.name in state["greenlang-8-cosine"]
