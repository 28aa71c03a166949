"""Every mutation about something of another tenant or of the installation. A new mutation needs rows here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import pytest

from app.access.principal import Principal
from schema.build import build_schema
from tests.core_schema import core_schema
from tests.schema.api import ACME, ADMIN, GLOBEX, Api, Data
from tests.schema.requests import EVER, ask, make_budget
from tests.schema.subjects import FORBIDDEN, outcome, state

pytestmark = pytest.mark.anyio


class Whose(Enum):
    OWN = "own"
    ANOTHER_TENANTS = "another tenant's"
    INSTALLATIONS = "the installation's"


@dataclass(frozen=True, slots=True)
class Subjects:
    """Ids of things of acme, and of budgets of the installation. Acme used the idempotency key `used`."""

    completion: str
    budget: str
    cap: str
    cap_over_all: str


Variables: TypeAlias = Callable[[Subjects], Data]


@dataclass(frozen=True, slots=True)
class Row:
    mutation: str
    whose: Whose
    caller: Principal
    variables: Variables
    outcome: str


DOCUMENTS = {
    "answerCreate": "mutation M($input: AnswerInput!) { answerCreate(input: $input) { __typename } }",
    "breakerReset": "mutation M($provider: String!) { breakerReset(provider: $provider) { __typename } }",
    "budgetCreate": "mutation M($input: BudgetCreateInput!) { budgetCreate(input: $input) { __typename } }",
    "budgetDelete": "mutation M($id: ID!) { budgetDelete(id: $id) { __typename } }",
    "budgetUpdate": "mutation M($input: BudgetUpdateInput!) { budgetUpdate(input: $input) { __typename } }",
    "cacheInvalidate": "mutation M($input: CacheInvalidateInput!) { cacheInvalidate(input: $input) { __typename } }",
    "collectionCreate": "mutation M($input: CollectionInput!) { collectionCreate(input: $input) { __typename } }",
    "collectionDelete": "mutation M($name: String!) { collectionDelete(name: $name) { __typename } }",
    "completionCancel": "mutation M($id: ID!) { completionCancel(id: $id) { __typename } }",
    "completionCreate": "mutation M($input: CompletionInput!) { completionCreate(input: $input) { __typename } }",
    "completionStart": "mutation M($input: CompletionInput!) { completionStart(input: $input) { __typename } }",
    "costExportCreate": "mutation M($input: CostExportInput!) { costExportCreate(input: $input) { __typename } }",
    "documentsDelete": "mutation M($input: DocumentsDeleteInput!) { documentsDelete(input: $input) { __typename } }",
    "documentsUpsert": "mutation M($input: DocumentsUpsertInput!) { documentsUpsert(input: $input) { __typename } }",
    "embeddingsCreate": "mutation M($input: EmbeddingsInput!) { embeddingsCreate(input: $input) { __typename } }",
}
REFUSED = {FORBIDDEN, "NotFound"}


def completion(idempotency_key: str) -> Variables:
    asked = {"messages": [{"role": "USER", "text": "Hi"}], "maxOutputTokens": 50, "idempotencyKey": idempotency_key}
    return lambda _: {"input": asked}


def embeddings(idempotency_key: str) -> Variables:
    return lambda _: {"input": {"texts": ["Hi"], "idempotencyKey": idempotency_key}}


def export(*tenants: str) -> Variables:
    return lambda _: {"input": {"filter": {**EVER, "tenants": list(tenants)}, "format": "CSV"}}


def new_budget(name: str, **scope: object) -> Variables:
    return lambda _: {"input": {"name": name, "scope": scope, "limitUsd": "1"}}


def raised(budget: Callable[[Subjects], str]) -> Variables:
    return lambda subjects: {"input": {"id": budget(subjects), "expectedVersion": 1, "limitUsd": "999"}}


def by_id(found: Callable[[Subjects], str]) -> Variables:
    return lambda subjects: {"id": found(subjects)}


def everything_cached(_: Subjects) -> Data:
    return {"input": {"select": {"everything": True}}}


def provider(name: str) -> Variables:
    return lambda _: {"provider": name}


def collection(name: str) -> Variables:
    return lambda _: {"input": {"name": name, "embeddingModel": "none", "dimensions": 2}}


def named(name: str) -> Variables:
    return lambda _: {"name": name}


def documents(**what: object) -> Variables:
    return lambda _: {"input": {"collection": "acme's", **what}}


def question(collection: str) -> Variables:
    return lambda _: {"input": {"question": "What is new?", "search": {"collection": collection}, "idempotencyKey": "used"}}


NO_SUBJECTS = Subjects("", "", "", "")
ONE = [{"id": "one", "text": "changed", "vector": [0, 1]}]
ROWS = (
    Row("answerCreate", Whose.OWN, ACME, question("acme's notes"), "Answer"),
    Row("answerCreate", Whose.ANOTHER_TENANTS, GLOBEX, question("acme's notes"), "NotFound"),
    Row("answerCreate", Whose.ANOTHER_TENANTS, ADMIN, question("acme's notes"), "NotFound"),
    Row("breakerReset", Whose.INSTALLATIONS, ACME, provider("openai"), FORBIDDEN),
    Row("breakerReset", Whose.INSTALLATIONS, ADMIN, provider("openai"), "Provider"),
    Row("budgetCreate", Whose.OWN, ACME, new_budget("new"), "Budget"),
    Row("budgetCreate", Whose.ANOTHER_TENANTS, GLOBEX, new_budget("new", tenant="acme"), FORBIDDEN),
    Row("budgetCreate", Whose.ANOTHER_TENANTS, GLOBEX, new_budget("acme's"), "Budget"),
    Row("budgetCreate", Whose.INSTALLATIONS, ACME, new_budget("new", tenant=None), FORBIDDEN),
    Row("budgetCreate", Whose.INSTALLATIONS, ACME, new_budget("cap"), "Budget"),
    Row("budgetCreate", Whose.INSTALLATIONS, ADMIN, new_budget("new", tenant=None), "Budget"),
    Row("budgetDelete", Whose.OWN, ACME, by_id(lambda subjects: subjects.budget), "Deleted"),
    Row("budgetDelete", Whose.ANOTHER_TENANTS, GLOBEX, by_id(lambda subjects: subjects.budget), "NotFound"),
    Row("budgetDelete", Whose.INSTALLATIONS, ACME, by_id(lambda subjects: subjects.cap), FORBIDDEN),
    Row("budgetDelete", Whose.INSTALLATIONS, ACME, by_id(lambda subjects: subjects.cap_over_all), "NotFound"),
    Row("budgetDelete", Whose.INSTALLATIONS, ADMIN, by_id(lambda subjects: subjects.cap_over_all), "Deleted"),
    Row("budgetUpdate", Whose.OWN, ACME, raised(lambda subjects: subjects.budget), "Budget"),
    Row("budgetUpdate", Whose.ANOTHER_TENANTS, GLOBEX, raised(lambda subjects: subjects.budget), "NotFound"),
    Row("budgetUpdate", Whose.INSTALLATIONS, ACME, raised(lambda subjects: subjects.cap), FORBIDDEN),
    Row("budgetUpdate", Whose.INSTALLATIONS, ACME, raised(lambda subjects: subjects.cap_over_all), "NotFound"),
    Row("budgetUpdate", Whose.INSTALLATIONS, ADMIN, raised(lambda subjects: subjects.cap_over_all), "Budget"),
    Row("cacheInvalidate", Whose.OWN, ACME, everything_cached, "CacheInvalidated"),
    Row("cacheInvalidate", Whose.ANOTHER_TENANTS, GLOBEX, everything_cached, "CacheInvalidated"),
    Row("collectionCreate", Whose.OWN, ACME, collection("new"), "Collection"),
    Row("collectionCreate", Whose.ANOTHER_TENANTS, GLOBEX, collection("acme's"), "Collection"),
    Row("collectionDelete", Whose.OWN, ACME, named("acme's"), "Deleted"),
    Row("collectionDelete", Whose.ANOTHER_TENANTS, GLOBEX, named("acme's"), "NotFound"),
    Row("collectionDelete", Whose.ANOTHER_TENANTS, ADMIN, named("acme's"), "NotFound"),
    Row("completionCancel", Whose.OWN, ACME, by_id(lambda subjects: subjects.completion), "Completion"),
    Row("completionCancel", Whose.ANOTHER_TENANTS, GLOBEX, by_id(lambda subjects: subjects.completion), "NotFound"),
    Row("completionCreate", Whose.OWN, ACME, completion("used"), "Completion"),
    Row("completionCreate", Whose.ANOTHER_TENANTS, GLOBEX, completion("used"), "Completion"),
    Row("completionStart", Whose.OWN, ACME, completion("new"), "Completion"),
    Row("completionStart", Whose.ANOTHER_TENANTS, GLOBEX, completion("used"), "Completion"),
    Row("costExportCreate", Whose.OWN, GLOBEX, export("globex"), "CostExport"),
    Row("costExportCreate", Whose.ANOTHER_TENANTS, GLOBEX, export("acme"), FORBIDDEN),
    Row("costExportCreate", Whose.ANOTHER_TENANTS, GLOBEX, export("globex", "acme"), FORBIDDEN),
    Row("costExportCreate", Whose.ANOTHER_TENANTS, ADMIN, export("acme"), "CostExport"),
    Row("documentsDelete", Whose.OWN, ACME, documents(ids=["one"]), "DocumentsDeleted"),
    Row("documentsDelete", Whose.ANOTHER_TENANTS, GLOBEX, documents(ids=["one"]), "NotFound"),
    Row("documentsUpsert", Whose.OWN, ACME, documents(documents=ONE), "DocumentsUpserted"),
    Row("documentsUpsert", Whose.ANOTHER_TENANTS, GLOBEX, documents(documents=ONE), "NotFound"),
    Row("documentsUpsert", Whose.ANOTHER_TENANTS, ADMIN, documents(documents=ONE), "NotFound"),
    Row("embeddingsCreate", Whose.OWN, ACME, embeddings("used"), "Embeddings"),
    Row("embeddingsCreate", Whose.ANOTHER_TENANTS, GLOBEX, embeddings("used"), "Embeddings"),
)


async def prepare(api: Api) -> Subjects:
    answer = await ask(api, ACME, messages=[{"role": "USER", "text": "Hi"}], idempotencyKey="used")
    assert await outcome(api, DOCUMENTS["embeddingsCreate"], ACME, input={"texts": ["Hi"], "idempotencyKey": "used"})
    assert await outcome(api, DOCUMENTS["collectionCreate"], ACME, **collection("acme's")(NO_SUBJECTS)) == "Collection"
    written = documents(documents=[{**ONE[0], "text": "first"}])(NO_SUBJECTS)
    assert await outcome(api, DOCUMENTS["documentsUpsert"], ACME, **written) == "DocumentsUpserted"
    notes = {"input": {"name": "acme's notes"}}
    assert await outcome(api, DOCUMENTS["collectionCreate"], ACME, **notes) == "Collection"
    assert await outcome(api, DOCUMENTS["answerCreate"], ACME, **question("acme's notes")(NO_SUBJECTS)) == "Answer"
    own = await make_budget(api, ACME, name="acme's")
    cap = await make_budget(api, ADMIN, name="cap", scope={"tenant": "acme"})
    over_all = await make_budget(api, ADMIN, name="over all", scope={"tenant": None})
    return Subjects(answer["id"], own["id"], cap["id"], over_all["id"])


def name_of(row: Row) -> str:
    return f"{row.mutation} {row.whose.value} by {row.caller.tenant}: {row.outcome}"


class TestTheTable:
    def test_has_every_mutation_with_something_of_another(self) -> None:
        mutations = core_schema(build_schema()).mutation_type
        assert mutations is not None
        assert set(DOCUMENTS) == set(mutations.fields)
        assert {row.mutation for row in ROWS if row.whose is not Whose.OWN} == set(mutations.fields)


class TestMutations:
    @pytest.mark.parametrize("row", ROWS, ids=name_of)
    async def test_reach_what_the_caller_may_change_and_nothing_else(self, api: Api, row: Row) -> None:
        subjects = await prepare(api)
        everything, acmes = await state(api), await state(api, "acme")
        assert await outcome(api, DOCUMENTS[row.mutation], row.caller, **row.variables(subjects)) == row.outcome
        if row.outcome in REFUSED:
            assert await state(api) == everything
        elif row.caller is GLOBEX:
            assert await state(api, "acme") == acmes
