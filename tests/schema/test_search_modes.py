"""Searches by words and by both, in a collection of many documents and beside those of another tenant."""

from __future__ import annotations

import random

import pytest

from app.access.principal import Principal
from tests.schema.api import ACME, GLOBEX, Api, Data
from tests.schema.test_answers import DELETE, collect, write

pytestmark = pytest.mark.anyio
SEARCH = """query Find($input: SearchInput!) {
  search(input: $input) {
    __typename
    ... on SearchHits { hits { id score text chunk { index } } costUsd }
    ... on InvalidInput { path }
    ... on Problem { code message }
  }
}"""
TEXTS = {
    "boilers": "Steam is made by two boilers. Only the older one burns oil in winter.",
    "part": "The spare part BX-7731 fits the valve of the older boiler.",
    "rail": "Freight on this line moves by rail. It emits a quarter of what the road emits.",
    "straße": "Die Dampfkessel in der Hauptstraße wurden 1987 gebaut.",
}


async def find(api: Api, words: str, mode: str = "TEXT", caller: Principal = ACME, **changes: object) -> Data:
    asked = {"collection": "notes", "text": words, "mode": mode, **changes}
    found: Data = (await api.data(SEARCH, caller, input=asked))["search"]
    return found


async def ids(api: Api, words: str, mode: str = "TEXT", caller: Principal = ACME, **changes: object) -> list[str]:
    return [hit["id"] for hit in (await find(api, words, mode, caller, **changes))["hits"]]


class TestByWords:
    @pytest.mark.parametrize(
        ("words", "found"),
        [
            ("boiler", ["boilers", "part"]),
            ("BX-7731", ["part"]),
            ("bx-7731 freight", ["part", "rail"]),
            ("EMITTING", ["rail"]),
            ("Hauptstraße", ["straße"]),
            ("the of by", []),
            ("zeppelin", []),
            ("'); drop table chunks; --", []),
        ],
    )
    async def test_finds_chunks_with_any_of_them(self, api: Api, words: str, found: list[str]) -> None:
        await collect(api, TEXTS)

        assert sorted(await ids(api, words)) == found

    async def test_ranks_chunks_with_more_of_them_higher_and_costs_nothing(self, api: Api) -> None:
        await collect(api, TEXTS)

        found = await find(api, "older boiler valve spare")

        assert [hit["id"] for hit in found["hits"]] == ["part", "boilers"]
        assert found["costUsd"] == "0"
        assert 1 > found["hits"][0]["score"] > found["hits"][1]["score"] > 0

    async def test_gives_as_many_hits_as_match_a_selective_filter(self, api: Api) -> None:
        await collect(api, {f"note {number:03}": f"Boiler number {number} burns oil." for number in range(300)})
        rare = {"any": [{"where": {"field": "name", "value": f"note {number:03}"}} for number in range(5, 300, 30)]}

        assert len(await ids(api, "boiler", topK=100)) == 100
        for mode in ("TEXT", "HYBRID"):
            assert sorted(await ids(api, "boiler oil", mode, topK=10, filter=rare)) == [
                f"note {number:03}" for number in range(5, 300, 30)
            ]
            assert len(await ids(api, "boiler oil", mode, topK=3, filter={"none": [rare]})) == 3

    async def test_needs_no_embedding_model(self, api: Api) -> None:
        make = "mutation Make($input: CollectionInput!) { collectionCreate(input: $input) { __typename } }"
        upsert = "mutation W($input: DocumentsUpsertInput!) { documentsUpsert(input: $input) { __typename } }"
        await api.data(make, input={"name": "notes", "dimensions": 3, "embeddingModel": "none"})
        documents = [{"id": "one", "text": TEXTS["part"], "vector": [1, 0, 0]}]
        await api.data(upsert, input={"collection": "notes", "documents": documents})

        assert await ids(api, "valve") == ["one"]

    async def test_shows_neither_deleted_documents_nor_those_of_others(self, api: Api) -> None:
        await collect(api, TEXTS)
        await collect(api, {"theirs": "Their boiler burns oil too."}, GLOBEX)
        await api.data(DELETE, input={"collection": "notes", "ids": ["boilers"]})
        await write(api, {"part": "Nothing of that is left."})

        for mode in ("TEXT", "HYBRID"):
            found = await ids(api, "boiler burns oil", mode)
            assert not {"boilers", "theirs"} & set(found)
            assert "theirs" in await ids(api, "boiler burns oil", mode, GLOBEX)
        assert await ids(api, "boiler burns oil") == []


class TestByBoth:
    async def test_finds_a_rare_word_and_what_is_near(self, api: Api) -> None:
        await collect(api, TEXTS)

        found = await ids(api, "Which boiler burns oil? BX-7731", "HYBRID")

        assert set(found[:2]) == {"boilers", "part"}
        assert set(found) == set(TEXTS)

    async def test_pays_for_its_embedding(self, api: Api) -> None:
        await collect(api, TEXTS)

        assert float((await find(api, "boiler", "HYBRID"))["costUsd"]) > 0


class TestBadInput:
    @pytest.mark.parametrize("mode", ["TEXT", "HYBRID"])
    async def test_is_refused_with_its_path(self, api: Api, mode: str) -> None:
        await collect(api, TEXTS)

        scored = await find(api, "boiler", mode, minScore=0.5)
        without_text = await find(api, "boiler", mode, text=None, vector=[1.0])

        assert (scored["__typename"], scored["path"]) == ("InvalidInput", ["minScore"])
        assert (without_text["__typename"], without_text["path"]) == ("InvalidInput", ["text"])

    async def test_no_words_are_an_error(self, api: Api) -> None:
        await collect(api, TEXTS)
        chance = random.Random(7)
        for _ in range(200):
            words = "".join(chance.choices("'\"\\&|!():*<>-% aé水🙂\t\n.@/7", k=chance.randint(1, 30)))
            if words.strip():
                assert (await find(api, words))["__typename"] == "SearchHits", words
