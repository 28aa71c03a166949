"""Tenants with hostile names do what they can with hostile names, ids and filters. None sees, counts or changes another's."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from app.access.principal import Principal, Scope
from app.settings import VectorSettings
from tests.app.access.principals import principal
from tests.schema.api import Api, Data
from tests.schema.test_vectors import create, delete, search, upsert

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

STEPS = 60
TENANTS = [
    principal(Scope.VECTORS, tenant=name, key=number)
    for number, name in enumerate(["acme", "acme'; drop table documents; --", "Acme", "%", "../acme"], start=20)
]
NAMES = ["docs", "docs'--", "Docs", "%", "_", "../docs", "d\u202eocs", "col_" + "0" * 32, '"docs"', "💚", "$where", "collections"]
IDS = ["a", "A", "a'--", "%", "*", "../a", "null", "0", '{"id": "a"}', "💚", "a\nb"]
FIELDS = ["tenant", "collection", "key", "it's", "a.b", "$or", "", "💚"]
STORES = [VectorSettings().default_store]
LIST = "{ collections(first: 100) { nodes { id name documentCount } } }"
NODE = "query N($id: ID!) { node(id: $id) { id } }"
DROP = "mutation D($name: String!) { collectionDelete(name: $name) { __typename } }"


@dataclass
class Model:
    """What each tenant should have: its collections with their ids, and the metadata of their documents."""

    documents: dict[tuple[str, str], dict[str, Mapping[str, object]]] = field(default_factory=dict)
    ids: dict[tuple[str, str], str] = field(default_factory=dict)

    def of(self, tenant: str) -> dict[str, dict[str, Mapping[str, object]]]:
        return {name: documents for (owner, name), documents in self.documents.items() if owner == tenant}


class Trial:
    def __init__(self, api: Api, seed: int, store: str) -> None:
        self.api = api
        self.chance = random.Random(seed)
        self.model = Model()
        self.store = store
        self.names = self.chance.sample(NAMES, 4)

    async def begin(self) -> None:
        for caller in TENANTS:
            for name in self.names[:2]:
                await self.make(caller, name)
                await self.write(caller, name)

    async def step(self) -> None:
        caller, name = self.chance.choice(TENANTS), self.chance.choice(self.names)
        act = self.chance.choice([self.make, self.make, self.write, self.write, self.write, self.remove, self.filter, self.drop])
        await act(caller, name)

    async def make(self, caller: Principal, name: str) -> None:
        answer = await create(self.api, caller, name=name, embeddingModel="none", dimensions=2, store=self.store)
        here = (caller.tenant, name)
        assert answer["__typename"] == ("Conflict" if here in self.model.documents else "Collection")
        if here not in self.model.documents:
            self.model.documents[here], self.model.ids[here] = {}, answer["id"]

    async def write(self, caller: Principal, name: str) -> None:
        chosen = self.chance.sample(IDS, 4)
        metadata = {each: {self.chance.choice(FIELDS): self.chance.choice([caller.tenant, 1, True])} for each in chosen}
        documents: list[dict[str, object]] = [
            {"id": each, "text": f"{caller.tenant} {name}", "vector": [1, self.chance.random()], "metadata": metadata[each]}
            for each in chosen
        ]
        answer = await upsert(self.api, *documents, caller=caller, collection=name)
        if (caller.tenant, name) in self.model.documents:
            assert answer["upsertedCount"] + answer["unchangedCount"] == 4, answer
            self.model.documents[caller.tenant, name] |= metadata
        else:
            assert answer["__typename"] == "NotFound"

    async def remove(self, caller: Principal, name: str) -> None:
        chosen = self.chance.sample(IDS, 3)
        answer = await delete(self.api, caller, collection=name, ids=chosen)
        found = self.model.documents.get((caller.tenant, name))
        if found is None:
            assert answer["__typename"] == "NotFound"
            return
        assert answer["deletedCount"] == str(sum(each in found for each in chosen))
        for each in chosen:
            found.pop(each, None)

    async def filter(self, caller: Principal, name: str) -> None:
        other = self.chance.choice(TENANTS).tenant
        name_of_field = self.chance.choice([each for each in FIELDS if each])
        where = {"where": {"field": name_of_field, "value": other}}
        answer = await search(self.api, caller, collection=name, vector=[1, 0], topK=100, filter=where)
        found = self.model.documents.get((caller.tenant, name))
        if found is None:
            assert answer["__typename"] == "NotFound"
        else:
            assert {hit["id"] for hit in answer["hits"]} == {
                each for each, metadata in found.items() if metadata.get(name_of_field) == other
            }

    async def drop(self, caller: Principal, name: str) -> None:
        if self.chance.random() < 0.7:
            return
        answer: Data = (await self.api.data(DROP, caller, name=name))["collectionDelete"]
        here = (caller.tenant, name)
        assert answer["__typename"] == ("Deleted" if here in self.model.documents else "NotFound")
        self.model.documents.pop(here, None)
        self.model.ids.pop(here, None)

    async def check(self, caller: Principal) -> None:
        mine = self.model.of(caller.tenant)
        listed = (await self.api.data(LIST, caller))["collections"]["nodes"]
        assert {node["name"]: int(node["documentCount"]) for node in listed} == {name: len(each) for name, each in mine.items()}
        for name, documents in mine.items():
            answer = await search(self.api, caller, collection=name, vector=[1, 0], topK=100)
            assert {hit["id"] for hit in answer["hits"]} == set(documents)
            assert {hit["text"] for hit in answer["hits"]} <= {f"{caller.tenant} {name}"}
        for (owner, _), made in self.model.ids.items():
            node = (await self.api.data(NODE, caller, id=made))["node"]
            assert node == ({"id": made} if owner == caller.tenant else None)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("seed", [1, 2])
async def test_tenants_have_nothing_of_each_other(api: Api, seed: int, store: str) -> None:
    trial = Trial(api, seed, store)
    await trial.begin()
    for step in range(1, STEPS + 1):
        await trial.step()
        if step % 20 == 0:
            await api.services.vectors.indexing.run_once()
            for caller in TENANTS:
                await trial.check(caller)
    assert sum(len(documents) for documents in trial.model.documents.values()) > 20
