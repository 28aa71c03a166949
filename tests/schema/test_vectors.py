"""Collections, documents and searches through the whole service, over pgvector and the simulator's embeddings."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from sqlalchemy import text

from app.access.principal import Principal
from tests.schema.api import ACME, GLOBEX, Api, Data
from tests.schema.requests import spend

pytestmark = pytest.mark.anyio

CREATE = """
mutation Create($input: CollectionInput!) {
  collectionCreate(input: $input) {
    __typename
    ... on Collection { id name store embeddingModel dimensions distance documentCount createdAt }
    ... on Problem { code message }
    ... on InvalidInput { path }
  }
}
"""
UPSERT = """
mutation Upsert($input: DocumentsUpsertInput!) {
  documentsUpsert(input: $input) {
    __typename
    ... on DocumentsUpserted { upsertedCount unchangedCount costUsd failures { id problem { code message path } } }
    ... on Problem { code message }
    ... on InvalidInput { path }
  }
}
"""
SEARCH = """
query Search($input: SearchInput!) {
  search(input: $input) {
    __typename
    ... on SearchHits {
      hits { id score text metadata provenance { sha256 source indexedAt verified } chunk { index start end } } latencyMs costUsd
    }
    ... on Problem { code message }
    ... on InvalidInput { path }
  }
}
"""
DELETE = """
mutation Delete($input: DocumentsDeleteInput!) {
  documentsDelete(input: $input) {
    __typename
    ... on DocumentsDeleted { deletedCount }
    ... on Problem { code message }
    ... on InvalidInput { path }
  }
}
"""
DROP = 'mutation { collectionDelete(name: "docs") { __typename ... on Deleted { id } } }'


async def create(api: Api, caller: Principal = ACME, **changes: object) -> Data:
    answer: Data = (await api.data(CREATE, caller, input={"name": "docs", **changes}))["collectionCreate"]
    return answer


async def upsert(api: Api, *documents: dict[str, object], caller: Principal = ACME, **changes: object) -> Data:
    asked = {"collection": "docs", "documents": list(documents), **changes}
    answer: Data = (await api.data(UPSERT, caller, input=asked))["documentsUpsert"]
    return answer


async def search(api: Api, caller: Principal = ACME, **changes: object) -> Data:
    answer: Data = (await api.data(SEARCH, caller, input={"collection": "docs", **changes}))["search"]
    return answer


async def delete(api: Api, caller: Principal = ACME, **changes: object) -> Data:
    answer: Data = (await api.data(DELETE, caller, input={"collection": "docs", **changes}))["documentsDelete"]
    return answer


def document(name: str, words: str, **changes: object) -> dict[str, object]:
    return {"id": name, "text": words, **changes}


def with_vector(name: str, *numbers: float, **changes: object) -> dict[str, object]:
    return {"id": name, "text": f"text of {name}", "vector": list(numbers), **changes}


def hits(answer: Data) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


async def count(api: Api, caller: Principal = ACME) -> int:
    found = (await api.data('{ collection(name: "docs") { documentCount } }', caller))["collection"]
    return int(found["documentCount"])


CATS = document("cats", "Cats sleep most of the day.", metadata={"kind": "animal", "legs": 4}, source="https://example.com/cats")
CARS = document("cars", "A car needs fuel and a driver.", metadata={"kind": "machine", "wheels": 4})


class TestThePath:
    async def test_documents_are_embedded_found_and_shown_with_where_they_come_from(self, api: Api) -> None:
        made = await create(api)
        assert made["__typename"] == "Collection", made
        assert (made["store"], made["embeddingModel"].partition("/")[0], made["documentCount"]) == ("pgvector", "openai", "0")
        written = await upsert(api, CATS, CARS)
        assert (written["upsertedCount"], written["unchangedCount"], written["failures"]) == (2, 0, []), written
        assert float(written["costUsd"]) > 0
        assert await count(api) == 2
        found = await search(api, text="When do cats sleep?")
        assert hits(found) == ["cats", "cars"]
        best = found["hits"][0]
        assert best["text"] == CATS["text"]
        assert best["metadata"] == CATS["metadata"]
        assert best["provenance"]["verified"] is True
        assert best["provenance"]["source"] == CATS["source"]
        assert best["chunk"] == {"index": 0, "start": 0, "end": len(str(CATS["text"]))}
        assert 0 <= found["hits"][1]["score"] < best["score"] <= 1

    async def test_the_ledger_has_documents_as_embeddings_and_questions_as_searches(self, api: Api) -> None:
        await create(api)
        await upsert(api, CATS)
        await search(api, text="cats")
        rows = (await spend(api, groupBy=["OPERATION"]))["rows"]["nodes"]
        assert {row["operation"]: int(row["requests"]) for row in rows} == {"EMBEDDING": 2, "SEARCH": 1}

    async def test_what_is_unchanged_is_neither_embedded_nor_written(self, api: Api) -> None:
        await create(api)
        await upsert(api, CATS, CARS)
        before = (await spend(api))["totals"]["requests"]
        again = await upsert(api, CATS, CARS)
        assert (again["upsertedCount"], again["unchangedCount"], again["costUsd"]) == (0, 2, "0")
        assert (await spend(api))["totals"]["requests"] == before

    async def test_changed_metadata_needs_no_new_embedding(self, api: Api) -> None:
        await create(api)
        await upsert(api, CATS)
        before = (await spend(api))["totals"]["requests"]
        changed = {**CATS, "metadata": {"kind": "animal", "legs": True}}
        assert (await upsert(api, changed))["upsertedCount"] == 1
        assert (await spend(api))["totals"]["requests"] == before
        found = await search(api, text="cats", filter={"where": {"field": "legs", "value": True}})
        assert [hit["metadata"] for hit in found["hits"]] == [changed["metadata"]]
        assert await count(api) == 1

    async def test_a_changed_text_replaces_all_chunks(self, api: Api) -> None:
        await create(api)
        long = "\n\n".join(f"Paragraph {number} is about the number {number}. " * 20 for number in range(30))
        assert (await upsert(api, document("book", long)))["upsertedCount"] == 1
        found = await search(api, text="Paragraph 7 is about the number 7.", topK=100)
        assert len({hit["chunk"]["index"] for hit in found["hits"]}) == len(found["hits"]) > 5
        for hit in found["hits"]:
            assert hit["id"] == "book"
            assert long[hit["chunk"]["start"] : hit["chunk"]["end"]] == hit["text"]
        await upsert(api, document("book", "It is short now."))
        found = await search(api, text="Paragraph 7 is about the number 7.", topK=100)
        assert [hit["text"] for hit in found["hits"]] == ["It is short now."]
        assert await count(api) == 1
        await api.services.vectors.indexing.run_once()
        assert hits(await search(api, text="short", topK=100)) == ["book"]

    async def test_a_deleted_document_is_gone_at_once(self, api: Api) -> None:
        await create(api)
        await upsert(api, CATS, CARS)
        assert (await delete(api, ids=["cats", "unknown"]))["deletedCount"] == "1"
        assert hits(await search(api, text="cats")) == ["cars"]
        assert await count(api) == 1
        await api.services.vectors.indexing.run_once()
        assert await rows_of(api, "documents") == await rows_of(api, "chunks") == 1
        assert (await delete(api, ids=["cats"]))["deletedCount"] == "0"

    async def test_documents_are_deleted_by_what_their_metadata_says(self, api: Api) -> None:
        await create(api)
        await upsert(api, CATS, CARS, document("plain", "Without metadata."))
        where = {"none": [{"where": {"field": "kind", "value": "machine"}}]}
        assert (await delete(api, filter=where))["deletedCount"] == "2"
        assert hits(await search(api, text="cats")) == ["cars"]

    async def test_a_deleted_collection_is_gone_at_once_and_emptied_later(self, api: Api) -> None:
        made = await create(api)
        await upsert(api, CATS, CARS)
        assert (await api.data(DROP))["collectionDelete"] == {"__typename": "Deleted", "id": made["id"]}
        assert (await search(api, text="cats"))["__typename"] == "NotFound"
        assert (await api.data(DROP))["collectionDelete"] == {"__typename": "NotFound"}
        again = await create(api)
        assert again["id"] != made["id"]
        assert (await search(api, text="cats"))["hits"] == []
        await api.services.vectors.indexing.run_once()
        assert (await rows_of(api, "documents"), await rows_of(api, "chunks"), await rows_of(api, "collections")) == (0, 0, 1)

    async def test_collections_are_listed_by_name_page_by_page(self, api: Api) -> None:
        for name in ("b", "a", "c"):
            await create(api, name=name, embeddingModel="none", dimensions=2)
        listing = "query L($after: Cursor) { collections(first: 2, after: $after) { nodes { name } pageInfo { endCursor } } }"
        first = (await api.data(listing))["collections"]
        second = (await api.data(listing, after=first["pageInfo"]["endCursor"]))["collections"]
        assert [node["name"] for node in first["nodes"] + second["nodes"]] == ["a", "b", "c"]

    async def test_two_documents_of_the_same_text_are_two_hits(self, api: Api) -> None:
        await create(api)
        await upsert(api, document("b", "The same."), document("a", "The same."))
        assert hits(await search(api, text="The same.")) == ["a", "b"]


async def rows_of(api: Api, table: str) -> int:
    async with api.services.sessions.read(primary=True) as session:
        found: int = (await session.execute(text(f"select count(*) from {table}"))).scalar_one()
        return found


class TestVectorsOfTheCaller:
    async def test_need_no_model_and_cost_nothing(self, api: Api) -> None:
        made = await create(api, embeddingModel="none", dimensions=2, distance="EUCLIDEAN")
        assert (made["embeddingModel"], made["dimensions"], made["distance"]) == ("none", 2, "EUCLIDEAN")
        packed = base64.b64encode(struct.pack("<2f", 0.0, 3.0)).decode()
        second: dict[str, object] = {"id": "b", "text": "b", "vectorBase64": packed}
        written = await upsert(api, with_vector("a", 0, 0), second)
        assert (written["upsertedCount"], written["costUsd"]) == (2, "0")
        found = await search(api, vector=[0, 0])
        assert [(hit["id"], hit["score"]) for hit in found["hits"]] == [("a", 1.0), ("b", 0.25)]
        assert found["costUsd"] == "0"
        assert hits(await search(api, vectorBase64=packed, minScore=0.5)) == ["b"]
        assert (await spend(api))["totals"]["requests"] == "0"

    async def test_a_changed_vector_is_a_change(self, api: Api) -> None:
        await create(api, embeddingModel="none", dimensions=2)
        assert (await upsert(api, with_vector("a", 1, 0)))["upsertedCount"] == 1
        assert (await upsert(api, with_vector("a", 1, 0)))["unchangedCount"] == 1
        assert (await upsert(api, with_vector("a", 0, 1)))["upsertedCount"] == 1
        assert (await search(api, vector=[0, 1]))["hits"][0]["score"] == 1


class TestFilters:
    async def test_top_k_hits_come_however_selective_the_filter_is(self, api: Api) -> None:
        await create(api, embeddingModel="none", dimensions=2)
        documents = [with_vector(f"d{n:03}", 1, n / 500, metadata={"n": n, "rare": n % 50 == 49}) for n in range(500)]
        assert (await upsert(api, *documents))["upsertedCount"] == 500
        found = await search(api, vector=[1, 0], topK=10, filter={"where": {"field": "rare", "value": True}})
        assert hits(found) == [f"d{n:03}" for n in range(49, 500, 50)]

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            ({"where": {"field": "s", "op": "GTE", "value": "b"}}, ["2", "3"]),
            ({"where": {"field": "n", "op": "IN", "value": [1, 3]}}, ["1", "3"]),
            ({"where": {"field": "n", "op": "NE", "value": 1}}, ["2", "3", "4"]),
            ({"all": [{"where": {"field": "n", "op": "GT", "value": 1}}, {"where": {"field": "s", "value": "b"}}]}, ["2"]),
            ({"none": [{"where": {"field": "deep", "value": "x"}}]}, ["1", "2", "3", "4"]),
        ],
    )
    async def test_of_each_kind(self, api: Api, where: Data, expected: list[str]) -> None:
        await create(api, embeddingModel="none", dimensions=2)
        rows: list[dict[str, Any]] = [{"s": "a", "n": 1}, {"s": "b", "n": 2.0}, {"s": "c", "n": 3}, {"deep": {"x": "x"}}]
        await upsert(api, *(with_vector(str(place + 1), 1, 0, metadata=row) for place, row in enumerate(rows)))
        assert hits(await search(api, vector=[1, 0], filter=where)) == expected


class TestATextThatWasChangedInTheDatabase:
    async def test_is_shown_as_not_verified(self, api: Api) -> None:
        await create(api)
        await upsert(api, CATS, CARS)
        async with api.services.sessions.write() as session:
            await session.execute(text("update chunks set text = 'Cats never sleep.' where text like 'Cats%'"))
        found = await search(api, text="cats sleep")
        assert [(hit["text"], hit["provenance"]["verified"]) for hit in found["hits"]] == [
            ("Cats never sleep.", False),
            (CARS["text"], True),
        ]
        assert api.services.metrics.get_sample_value("greenlang_vector_texts_unverified_total", {"store": "pgvector"}) == 1


class TestAStoreThatIsWrong:
    async def test_loses_hits_and_never_shows_one(self, api: Api) -> None:
        """Its metadata is old, and it has a chunk of another collection and one of no document."""
        mine, other = (
            await create(api, embeddingModel="none", dimensions=2),
            await create(api, name="other", embeddingModel="none", dimensions=2),
        )
        await upsert(api, with_vector("a", 1, 0, metadata={"n": 1}), with_vector("b", 1, 0.1, metadata={"n": 1}))
        await upsert(api, with_vector("foreign", 1, 0, metadata={"n": 1}), collection="other")
        here, there = (f"vectors.c_{each['id'].removeprefix('col_')}" for each in (mine, other))
        async with api.services.sessions.write() as session:
            await session.execute(text(f"insert into {here} select * from {there}"))
            await session.execute(text(f"insert into {here} select gen_random_uuid(), embedding, metadata from {there}"))
            await session.execute(text("update documents set metadata = '{\"n\": 2}' where id = 'b'"))
        found = await search(api, vector=[1, 0], topK=1, filter={"where": {"field": "n", "value": 1}})
        assert hits(found) == ["a"]
        assert hits(await search(api, vector=[1, 0])) == ["a", "b"]


class TestTenants:
    async def test_what_one_has_is_not_there_for_the_other(self, api: Api) -> None:
        made = await create(api)
        await upsert(api, CATS)
        assert (await search(api, GLOBEX, text="cats"))["__typename"] == "NotFound"
        assert (await upsert(api, CARS, caller=GLOBEX))["__typename"] == "NotFound"
        assert (await delete(api, GLOBEX, ids=["cats"]))["__typename"] == "NotFound"
        assert (await api.data(DROP, GLOBEX))["collectionDelete"]["__typename"] == "NotFound"
        query = 'query Q($id: ID!) { collection(name: "docs") { id } collections { nodes { id } } node(id: $id) { id } }'
        assert await api.data(query, GLOBEX, id=made["id"]) == {"collection": None, "collections": {"nodes": []}, "node": None}
        assert (await api.data(query, ACME, id=made["id"]))["node"] == {"id": made["id"]}
        await create(api, GLOBEX)
        await upsert(api, CARS, caller=GLOBEX)
        assert hits(await search(api, GLOBEX, text="cats")) == ["cars"]
        assert hits(await search(api, text="cats")) == ["cats"]


SIX_LEVELS: Data = {"where": {"field": "a", "value": 1}}
for _ in range(6):
    SIX_LEVELS = {"all": [SIX_LEVELS]}
MIXED: Data = {"where": {"field": "a", "op": "IN", "value": [1, "x"]}}
PACKED_THREE = base64.b64encode(bytes(12)).decode()


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "path"),
        [
            ({"name": ""}, ["name"]),
            ({"name": "x" * 129}, ["name"]),
            ({"name": " "}, ["name"]),
            ({"dimensions": 0}, ["dimensions"]),
            ({"dimensions": 4001}, ["dimensions"]),
            ({"store": "elsewhere"}, ["store"]),
            ({"embeddingModel": "none"}, ["dimensions"]),
            ({"embeddingModel": "nowhere/embed"}, ["embeddingModel"]),
            ({"embeddingModel": "anthropic/claude-haiku-5-5"}, ["embeddingModel"]),
        ],
    )
    async def test_of_a_collection(self, api: Api, changes: Data, path: list[str]) -> None:
        answer = await create(api, **changes)
        assert (answer["__typename"], answer["path"]) == ("InvalidInput", path), answer
        assert await rows_of(api, "collections") == 0

    async def test_a_second_collection_of_the_same_name_is_a_conflict(self, api: Api) -> None:
        await create(api)
        assert (await create(api))["__typename"] == "Conflict"

    @pytest.mark.parametrize(
        ("documents", "path"),
        [
            ([], ["documents"]),
            ([with_vector("a", 1, 0), with_vector("a", 0, 1)], ["documents"]),
            ([with_vector("a", 1, 0), with_vector("b", 1)], ["documents", "1", "vector"]),
            ([with_vector("a", 1, 0), with_vector("b", 0, 0)], ["documents", "1", "vector"]),
            ([with_vector("a", 1, 0), with_vector("b", 1e39, 0)], ["documents", "1", "vector"]),
            ([with_vector("a", 1, 0), {"id": "b", "text": "b"}], ["documents", "1", "vector"]),
            ([{"id": "b", "text": "b", "vectorBase64": "AAA"}], ["documents", "0", "vectorBase64"]),
            ([{"id": "b", "text": "b", "vectorBase64": PACKED_THREE}], ["documents", "0", "vector"]),
            ([with_vector("a", 1, 0, vectorBase64=PACKED_THREE)], ["documents", "0", "vectorBase64"]),
            ([with_vector("a", 1, 0), {"id": "b", "text": " \n", "vector": [1, 0]}], ["documents", "1", "text"]),
            ([with_vector("", 1, 0)], ["documents", "0", "id"]),
            ([with_vector("x" * 513, 1, 0)], ["documents", "0", "id"]),
            ([with_vector("a", 1, 0, metadata=[1])], ["documents", "0", "metadata"]),
            ([with_vector("a", 1, 0, source="x" * 2049)], ["documents", "0", "source"]),
            ([with_vector(f"d{n}", 1, 0) for n in range(1001)], ["documents"]),
        ],
    )
    async def test_of_documents_writes_nothing(self, api: Api, documents: list[Data], path: list[str]) -> None:
        await create(api, embeddingModel="none", dimensions=2)
        answer = await upsert(api, *documents)
        assert (answer["__typename"], answer["path"]) == ("InvalidInput", path), answer
        assert await rows_of(api, "documents") == 0

    @pytest.mark.parametrize(
        ("changes", "path"),
        [
            ({}, ["text"]),
            ({"text": "a", "vector": [1, 0]}, ["text"]),
            ({"text": ""}, ["text"]),
            ({"text": "  "}, ["text"]),
            ({"text": "of a collection without a model"}, ["text"]),
            ({"vector": [1]}, ["vector"]),
            ({"vector": [0, 0]}, ["vector"]),
            ({"vector": [1, 0], "topK": 0}, ["topK"]),
            ({"vector": [1, 0], "topK": 101}, ["topK"]),
            ({"vector": [1, 0], "filter": SIX_LEVELS}, ["filter", *["all", "0"] * 5, "all"]),
            ({"vector": [1, 0], "filter": MIXED}, ["filter", "where", "value", "1"]),
            ({"vector": [1, 0], "filter": {"where": {"field": "a", "value": {"deep": 1}}}}, ["filter", "where", "value"]),
        ],
    )  # fmt: skip
    async def test_of_a_search(self, api: Api, changes: Data, path: list[str]) -> None:
        await create(api, embeddingModel="none", dimensions=2)
        answer = await search(api, **changes)
        assert (answer["__typename"], answer["path"]) == ("InvalidInput", path), answer

    @pytest.mark.parametrize("changes", [{}, {"ids": []}, {"ids": ["a"], "filter": {"where": {"field": "a", "value": 1}}}])
    async def test_of_a_deletion(self, api: Api, changes: Data) -> None:
        await create(api, embeddingModel="none", dimensions=2)
        await upsert(api, with_vector("a", 1, 0, metadata={"a": 1}))
        assert (await delete(api, **changes))["path"] == ["ids"]
        assert await count(api) == 1

    async def test_an_unknown_collection_is_not_found(self, api: Api) -> None:
        answers = [await search(api, text="a"), await upsert(api, CATS), await delete(api, ids=["a"])]
        assert [answer["__typename"] for answer in answers] == ["NotFound"] * 3


BUDGET = 'mutation { budgetCreate(input: {name: "b", scope: {}, limitUsd: "%s"}) { __typename } }'


class TestMoney:
    async def test_a_spent_budget_refuses_documents_and_questions(self, api: Api) -> None:
        await create(api)
        await api.data(BUDGET % "0")
        assert (await upsert(api, CATS))["__typename"] == "BudgetExceeded"
        assert (await search(api, text="cats"))["__typename"] == "BudgetExceeded"
        assert await rows_of(api, "documents") == 0

    async def test_a_budget_that_ends_half_way_reports_what_was_written(self, api: Api) -> None:
        await create(api)
        documents = [document(f"d{n:03}", f"Document {n} speaks of the number {n}. " * 60) for n in range(400)]
        first = await upsert(api, *documents[:100])
        spent = (await spend(api))["totals"]["costUsd"]
        await api.data(BUDGET % f"{float(spent) * 2.5:.9f}")
        half = await upsert(api, *documents)
        assert (first["upsertedCount"], half["__typename"], half["unchangedCount"]) == (100, "DocumentsUpserted", 100)
        assert 0 < len(half["failures"]) == 300 - half["upsertedCount"]
        assert {failure["problem"]["code"] for failure in half["failures"]} == {"BUDGET_EXCEEDED"}
        assert await count(api) == 100 + half["upsertedCount"]

    async def test_vectors_that_were_paid_for_are_not_paid_again_after_a_crash(self, api: Api) -> None:
        """The call was settled, and its process ended before the documents were written."""
        await create(api)
        vectors = api.services.vectors
        found = await vectors.collections.get("acme", "docs")
        before = (await spend(api))["totals"]["requests"]
        await vectors.ingest.embedder.embed_documents(found, [str(CATS["text"]), str(CARS["text"])], ACME, None)
        assert (await upsert(api, CATS, CARS))["upsertedCount"] == 2
        assert int((await spend(api))["totals"]["requests"]) == int(before) + 1


class TestLargeCalls:
    async def test_a_thousand_vectors_fit_into_one_call(self, api: Api) -> None:
        await create(api, embeddingModel="none", dimensions=384)
        packed = [base64.b64encode(struct.pack("<384f", *[1.0] * 383, float(n))).decode() for n in range(1000)]
        documents = [document(f"d{n:04}", "x", vectorBase64=each) for n, each in enumerate(packed)]
        assert (await upsert(api, *documents))["upsertedCount"] == 1000
        assert hits(await search(api, vectorBase64=packed[700], topK=1)) == ["d0700"]
        assert await count(api) == 1000
