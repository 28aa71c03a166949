"""Two tenants on every root field: what one has is not there for the other, and a key does only what its scopes say."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from graphql import (
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    get_named_type,
)

from app.access.principal import Principal, Scope
from app.domain.errors import Forbidden
from app.llm.probes import HealthChanged, HealthStatus
from schema.build import build_schema
from schema.permissions import PERMISSIONS, scopes_of
from tests.app.access.principals import principal
from tests.core_schema import core_schema
from tests.schema.api import ACME, ADMIN, BOUND, GLOBEX, POWERLESS, Api, Data
from tests.schema.requests import COSTS, EVER, ask, make_budget, spend

pytestmark = pytest.mark.anyio

PERIOD = '{period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}'
ASK = '{messages: [{role: USER, text: "Hi"}]}'
TYPENAME = "{ __typename }"
ALERTS = "query Alerts($filter: BudgetAlertFilter) { budgetAlerts(filter: $filter) { nodes { id } } }"
RECORDS = "query Records($filter: CostFilter!) { usageRecords(filter: $filter) { nodes { id } } }"
DOCUMENTS = {
    "Query.budget": f'{{ budget(id: "x") {TYPENAME} }}',
    "Query.budgetAlerts": f"{{ budgetAlerts {TYPENAME} }}",
    "Query.budgets": f"{{ budgets {TYPENAME} }}",
    "Query.cacheStats": f"{{ cacheStats {TYPENAME} }}",
    "Query.collection": f'{{ collection(name: "x") {TYPENAME} }}',
    "Query.collections": f"{{ collections {TYPENAME} }}",
    "Query.completion": f'{{ completion(id: "x") {TYPENAME} }}',
    "Query.costForecast": f"{{ costForecast(filter: {PERIOD}) {TYPENAME} }}",
    "Query.costs": f"{{ costs(filter: {PERIOD}) {TYPENAME} }}",
    "Query.health": f"{{ health {TYPENAME} }}",
    "Query.models": f"{{ models {TYPENAME} }}",
    "Query.providers": f"{{ providers {TYPENAME} }}",
    "Query.routeExplain": f"{{ routeExplain(input: {ASK}) {TYPENAME} }}",
    "Query.routes": f"{{ routes {TYPENAME} }}",
    "Query.search": f'{{ search(input: {{collection: "x", text: "Hi"}}) {TYPENAME} }}',
    "Query.secrets": f"{{ secrets {TYPENAME} }}",
    "Query.usageRecords": f"{{ usageRecords(filter: {PERIOD}) {TYPENAME} }}",
    "Mutation.answerCreate": f'mutation {{ answerCreate(input: {{question: "Hi", search: {{collection: "x"}}}}) {TYPENAME} }}',
    "Mutation.breakerReset": f'mutation {{ breakerReset(provider: "openai") {TYPENAME} }}',
    "Mutation.budgetCreate": f'mutation {{ budgetCreate(input: {{name: "a", scope: {{}}, limitUsd: "1"}}) {TYPENAME} }}',
    "Mutation.budgetDelete": f'mutation {{ budgetDelete(id: "x") {TYPENAME} }}',
    "Mutation.budgetUpdate": f'mutation {{ budgetUpdate(input: {{id: "x", expectedVersion: 1}}) {TYPENAME} }}',
    "Mutation.cacheInvalidate": f"mutation {{ cacheInvalidate(input: {{select: {{everything: true}}}}) {TYPENAME} }}",
    "Mutation.collectionCreate": f'mutation {{ collectionCreate(input: {{name: "x"}}) {TYPENAME} }}',
    "Mutation.collectionDelete": f'mutation {{ collectionDelete(name: "x") {TYPENAME} }}',
    "Mutation.documentsDelete": f'mutation {{ documentsDelete(input: {{collection: "x", ids: ["a"]}}) {TYPENAME} }}',
    "Mutation.documentsUpsert": f'mutation {{ documentsUpsert(input: {{collection: "x", documents: []}}) {TYPENAME} }}',
    "Mutation.completionCancel": f'mutation {{ completionCancel(id: "x") {TYPENAME} }}',
    "Mutation.completionCreate": f"mutation {{ completionCreate(input: {ASK}) {TYPENAME} }}",
    "Mutation.completionStart": f"mutation {{ completionStart(input: {ASK}) {TYPENAME} }}",
    "Mutation.costExportCreate": f"mutation {{ costExportCreate(input: {{filter: {PERIOD}, format: CSV}}) {TYPENAME} }}",
    "Subscription.budgetAlerts": f"subscription {{ budgetAlerts {TYPENAME} }}",
    "Mutation.embeddingsCreate": f'mutation {{ embeddingsCreate(input: {{texts: ["Hi"]}}) {TYPENAME} }}',
    "Subscription.completionEvents": f'subscription {{ completionEvents(id: "x") {TYPENAME} }}',
    "Subscription.costUpdates": f"subscription {{ costUpdates(filter: {PERIOD}) {TYPENAME} }}",
    "Subscription.providerEvents": f"subscription {{ providerEvents {TYPENAME} }}",
    "Subscription.completionStream": f"subscription {{ completionStream(input: {ASK}) {TYPENAME} }}",
}
OPEN_TO_ANY_KEY = {"Query.node", "Query.viewer"}


def root_fields(schema: GraphQLSchema) -> set[str]:
    roots = (schema.query_type, schema.mutation_type, schema.subscription_type)
    return {f"{root.name}.{name}" for root in roots if root is not None for name in root.fields}


class TestScopes:
    def test_every_root_field_is_tried(self) -> None:
        assert set(DOCUMENTS) | OPEN_TO_ANY_KEY == root_fields(core_schema(build_schema()))

    @pytest.mark.parametrize("coordinate", sorted(DOCUMENTS))
    async def test_a_key_without_the_scope_is_forbidden(self, coordinate: str) -> None:
        row = scopes_of(PERMISSIONS[coordinate.partition(".")[0], coordinate.partition(".")[2]])
        assert row
        api = Api.without_services(build_schema())
        for needed in row:
            others = frozenset(scope for scope in Scope if not principal(scope).may(needed))
            raised = await api.raised(DOCUMENTS[coordinate], dataclasses.replace(POWERLESS, scopes=others))
            assert isinstance(raised, Forbidden)
            assert needed.value in str(raised)

    @pytest.mark.parametrize("kind", ["alr", "cmp", "bud", "use", "prv", "col"])
    async def test_a_node_asks_for_the_scope_of_its_kind(self, kind: str) -> None:
        api = Api.without_services(build_schema())
        assert isinstance(await api.raised(f'{{ node(id: "{kind}_x") {{ id }} }}', POWERLESS), Forbidden)


class TestMoneyOfAllTenants:
    def test_is_in_one_field_that_providers_alone_opens(self) -> None:
        """Any other amount below a root field that PROVIDERS opens is a price from the configuration."""
        schema = core_schema(build_schema())
        opened: set[str] = set()
        for type_name, field in (key for key, rule in PERMISSIONS.items() if rule is Scope.PROVIDERS):
            root = schema.get_type(type_name)
            assert isinstance(root, GraphQLObjectType)
            opened |= amounts_below(schema, get_named_type(root.fields[field].type), set())
        assert {name for name in opened if not name.endswith("PriceUsd")} == {"ProviderMetrics.costUsd"}

    @pytest.mark.parametrize("document", ["{ providers %s }", '{ node(id: "prv_openai") { ... on Provider %s } }'])
    async def test_is_shown_to_an_administrator_alone(self, api: Api, document: str) -> None:
        for caller in (ACME, GLOBEX):
            await ask(api, caller, model="openai/gpt-6-sol")
        fields = "{ name metrics { requests costUsd latencyP50Ms } breakers { model } limiters { kind } health }"

        async def openai(caller: Principal) -> Data:
            (found,) = (await api.data(document.replace("%s", fields), caller)).values()
            return found if isinstance(found, dict) else next(each for each in found if each["name"] == "openai")

        shown = await openai(ADMIN)
        assert Decimal(shown["metrics"]["costUsd"]) > 0
        for caller in (ACME, GLOBEX, BOUND):
            shown["metrics"]["costUsd"] = None
            assert await openai(caller) == shown

    async def test_does_not_come_with_the_events_of_providers(self, api: Api) -> None:
        await ask(api, model="openai/gpt-6-sol")
        watch = """subscription { providerEvents { ... on ProviderChanged { provider { metrics { costUsd } } }
            ... on Heartbeat { at } } }"""
        seen: list[Data] = []
        for caller in (ACME, ADMIN):
            async with asyncio.timeout(10), aclosing(api.events(watch, caller)) as events:
                await anext(events)
                api.services.fleet.publish(HealthChanged("openai", HealthStatus.DOWN, datetime.now(UTC)))
                while "provider" not in (event := (await anext(events))["providerEvents"]):
                    pass
                api.services.fleet.publish(HealthChanged("openai", HealthStatus.UP, datetime.now(UTC)))
                seen.append(event["provider"]["metrics"])
        assert seen[0] == {"costUsd": None}
        assert Decimal(seen[1]["costUsd"]) > 0


def amounts_below(schema: GraphQLSchema, found: GraphQLNamedType, seen: set[str]) -> set[str]:
    """Every field of a Decimal that can be selected below the type."""
    if found.name in seen:
        return set()
    seen.add(found.name)
    if isinstance(found, GraphQLUnionType | GraphQLInterfaceType):
        return set[str]().union(*(amounts_below(schema, each, seen) for each in schema.get_possible_types(found)))
    if not isinstance(found, GraphQLObjectType):
        return set()
    amounts = set[str]()
    for name, field in found.fields.items():
        below = get_named_type(field.type)
        amounts |= {f"{found.name}.{name}"} if below.name == "Decimal" else amounts_below(schema, below, seen)
    return amounts


class TestForeignIds:
    @pytest.mark.parametrize("name", ["completion", "budget"])
    async def test_are_not_found(self, api: Api, name: str) -> None:
        found = await ask(api) if name == "completion" else await make_budget(api)
        query = f"query Find($id: ID!) {{ {name}(id: $id) {{ id }} node(id: $id) {{ id }} }}"
        assert await api.data(query, GLOBEX, id=found["id"]) == {name: None, "node": None}
        for caller in (ACME, ADMIN):
            assert await api.data(query, caller, id=found["id"]) == {name: {"id": found["id"]}, "node": {"id": found["id"]}}

    async def test_of_usage_records_are_not_found(self, api: Api) -> None:
        await ask(api)
        records = await api.data(f"{{ usageRecords(filter: {PERIOD}) {{ nodes {{ id tenant }} }} }}")
        [record] = records["usageRecords"]["nodes"]
        query = "query Find($id: ID!) { node(id: $id) { id } }"
        assert (await api.data(query, GLOBEX, id=record["id"]))["node"] is None
        assert (await api.data(query, BOUND, id=record["id"]))["node"] is None
        assert (await api.data(query, ADMIN, id=record["id"]))["node"] == {"id": record["id"]}

    async def test_of_budgets_can_neither_be_changed_nor_deleted(self, api: Api) -> None:
        made = await make_budget(api)
        change = """mutation Change($input: BudgetUpdateInput!, $id: ID!) {
            budgetUpdate(input: $input) { __typename } budgetDelete(id: $id) { __typename } }"""
        asked = {"id": made["id"], "expectedVersion": 1, "limitUsd": "1"}
        for caller in (GLOBEX, BOUND):
            done = await api.data(change, caller, input=asked, id=made["id"])
            assert done == {"budgetUpdate": {"__typename": "NotFound"}, "budgetDelete": {"__typename": "NotFound"}}
        found = await api.data("query Find($id: ID!) { budget(id: $id) { limitUsd deletedAt version } }", id=made["id"])
        assert found["budget"] == {"limitUsd": "250", "deletedAt": None, "version": 1}

    async def test_of_completions_can_neither_be_watched_nor_cancelled(self, api: Api) -> None:
        made = await ask(api)
        cancel = "mutation Stop($id: ID!) { completionCancel(id: $id) { __typename } }"
        watch = """subscription Watch($id: ID!) { completionEvents(id: $id) {
            __typename ... on CompletionFailed { problem { __typename } } } }"""
        for caller in (GLOBEX, BOUND):
            assert await api.data(cancel, caller, id=made["id"]) == {"completionCancel": {"__typename": "NotFound"}}
            events = [event["completionEvents"] async for event in api.events(watch, caller, id=made["id"])]
            assert events == [{"__typename": "CompletionFailed", "problem": {"__typename": "NotFound"}}]

    async def test_of_completions_are_watched_by_the_administrator(self, api: Api) -> None:
        start = f"mutation {{ completionStart(input: {ASK}) {{ ... on Completion {{ id }} }} }}"
        watch = "subscription Watch($id: ID!) { completionEvents(id: $id) { __typename } }"
        made = (await api.data(start))["completionStart"]
        own = [event async for event in api.events(watch, id=made["id"])]
        assert [event async for event in api.events(watch, ADMIN, id=made["id"])] == own
        assert own[-1] == {"completionEvents": {"__typename": "CompletionFinished"}}

    @pytest.mark.parametrize("text", ["", "cmp_", "bud_0", "cmp_" + "g" * 32, "bud_" + "0" * 31 + "\0", "?", "prv_\0"])
    async def test_texts_that_are_no_ids_are_not_found(self, api: Api, text: str) -> None:
        query = "query Find($id: ID!) { node(id: $id) { id } completion(id: $id) { id } budget(id: $id) { id } }"
        assert await api.data(query, id=text) == {"node": None, "completion": None, "budget": None}


class TestForeignTenants:
    @pytest.mark.parametrize(
        ("document", "variables"),
        [
            (COSTS, {"filter": {**EVER, "tenants": ["globex", "acme"]}}),
            (ALERTS, {"filter": {"tenant": "acme"}}),
            (RECORDS, {"filter": {**EVER, "tenants": ["acme"]}}),
            ("query Q($filter: BudgetFilter) { budgets(filter: $filter) { nodes { id } } }", {"filter": {"tenant": "acme"}}),
            (
                "mutation M($input: BudgetCreateInput!) { budgetCreate(input: $input) { __typename } }",
                {"input": {"name": "n", "scope": {"tenant": "acme"}, "limitUsd": "1"}},
            ),
            (
                "mutation M($input: BudgetCreateInput!) { budgetCreate(input: $input) { __typename } }",
                {"input": {"name": "n", "scope": {"tenant": None}, "limitUsd": "1"}},
            ),
        ],
    )  # fmt: skip
    async def test_in_a_filter_or_an_input_need_admin(self, api: Api, document: str, variables: Data) -> None:
        assert isinstance(await api.raised(document, GLOBEX, **variables), Forbidden)
        assert (await api.run(document, ADMIN, **variables)).errors is None

    async def test_are_neither_counted_nor_listed(self, api: Api) -> None:
        await ask(api)
        await make_budget(api)
        seen = await api.data(f"{{ budgets {{ nodes {{ id }} }} usageRecords(filter: {PERIOD}) {{ nodes {{ id }} }} }}", GLOBEX)
        assert seen == {"budgets": {"nodes": []}, "usageRecords": {"nodes": []}}
        assert (await spend(api, GLOBEX, groupBy=["TENANT"]))["totals"]["requests"] == "0"

    async def test_are_all_there_for_an_administrator(self, api: Api) -> None:
        for caller in (ACME, GLOBEX):
            await ask(api, caller)
            await make_budget(api, caller)
        report = await spend(api, ADMIN, groupBy=["TENANT"])
        assert {row["tenant"] for row in report["rows"]["nodes"]} == {"acme", "globex"}
        found = await api.data("{ budgets { nodes { scope { tenant } } } }", ADMIN)
        assert [node["scope"]["tenant"] for node in found["budgets"]["nodes"]] == ["acme", "globex"]

    async def test_share_no_idempotency_key(self, api: Api) -> None:
        answers = [await ask(api, caller, idempotencyKey="same") for caller in (ACME, GLOBEX, ACME)]
        assert answers[0]["id"] == answers[2]["id"] != answers[1]["id"]
        assert (answers[1]["tenant"], answers[2]["tenant"]) == ("globex", "acme")

    async def test_pay_for_themselves_alone(self, api: Api) -> None:
        await make_budget(api, ACME, limitUsd="0.000001")
        assert (await ask(api, ACME))["__typename"] == "BudgetExceeded"
        assert (await ask(api, GLOBEX))["__typename"] == "Completion"

    async def test_show_in_the_viewer_who_is_who(self, api: Api) -> None:
        async def tenant(caller: Principal) -> object:
            return (await api.data("{ viewer { tenant } }", caller))["viewer"]["tenant"]

        assert (await tenant(ACME), await tenant(GLOBEX)) == ("acme", "globex")
