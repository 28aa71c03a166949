"""Operations as clients send them, from the document to the stores and back."""

from __future__ import annotations

from decimal import Decimal

import pytest

from app.domain.errors import Forbidden, Refused
from app.domain.problems import InvalidInput
from tests.schema.api import ADMIN, BOUND, GLOBEX, Api, Data
from tests.schema.requests import ASK, COSTS, EVER, ask, make_budget, spend
from tests.simulators import RunningSimulator

pytestmark = pytest.mark.anyio


class TestCompletions:
    async def test_an_answer_says_who_gave_it_and_what_it_cost(self, api: Api) -> None:
        answer = await ask(api, labels=[{"key": "team", "value": "search"}], agent="research")
        assert answer["__typename"] == "Completion"
        assert (answer["status"], answer["route"], answer["tenant"], answer["agent"]) == (
            "FINISHED",
            "default",
            "acme",
            "research",
        )
        assert answer["usage"]["totalTokens"] == answer["usage"]["inputTokens"] + answer["usage"]["outputTokens"]
        assert [attempt["outcome"] for attempt in answer["attempts"]] == ["SUCCEEDED"]
        assert answer["costUsd"] == answer["attempts"][0]["costUsd"]
        assert Decimal(answer["costUsd"]) > 0
        assert answer["labels"] == [{"key": "team", "value": "search"}]

    async def test_it_is_found_again_by_its_id(self, api: Api) -> None:
        answer = await ask(api)
        found = await api.data(
            "query Find($id: ID!) { completion(id: $id) { text } node(id: $id) { id ... on Completion { text } } }",
            id=answer["id"],
        )
        assert found == {"completion": {"text": answer["text"]}, "node": {"id": answer["id"], "text": answer["text"]}}

    async def test_bad_input_is_named_by_its_path(self, api: Api) -> None:
        assert await ask(api, messages=[]) == {
            "__typename": "InvalidInput",
            "code": "INVALID_INPUT",
            "message": "There are no messages.",
            "path": ["messages"],
        }

    async def test_a_conversation_has_so_many_messages_at_most(self, api: Api) -> None:
        message = {"role": "USER", "text": "Hi"}
        refused = await ask(api, messages=[message] * 2049)
        assert (refused["path"], refused["message"]) == (["messages"], "There are 2049; at most 2048 are allowed.")
        raised = await api.raised(ASK, input={"messages": [message] * 10_001})
        assert isinstance(raised, Refused)
        assert raised.reason == InvalidInput("There are 10001; at most 10000 are allowed.", ("messages",))

    async def test_an_unknown_model_has_no_route(self, api: Api) -> None:
        answer = await ask(api, model="nobody/nothing")
        assert (answer["__typename"], answer["code"], answer["path"]) == ("InvalidInput", "NO_ROUTE", ["model"])

    async def test_a_budget_that_cannot_pay_refuses_and_says_what_is_left(self, api: Api) -> None:
        await make_budget(api, limitUsd="0.000001")
        answer = await ask(api)
        assert answer["__typename"] == "BudgetExceeded"
        assert answer["remainingUsd"] == "0.000001"
        assert answer["budget"] == {"name": "Monthly", "remainingUsd": "0.000001"}
        assert Decimal(answer["neededUsd"]) > Decimal("0.000001")

    async def test_a_budget_the_caller_may_not_see_is_not_shown(self, api: Api) -> None:
        await make_budget(api, ADMIN, name="Everybody", scope={"tenant": None}, limitUsd="0.000001")
        answer = await ask(api)
        assert (answer["__typename"], answer["budget"], answer["remainingUsd"]) == ("BudgetExceeded", None, None)
        assert "Everybody" not in answer["message"]

    async def test_a_key_bound_to_an_agent_speaks_for_no_other(self, api: Api) -> None:
        assert (await ask(api, BOUND))["agent"] == "research"
        asked = {"messages": [{"role": "USER", "text": "Hi"}], "agent": "sales"}
        assert isinstance(await api.raised(ASK, BOUND, input=asked), Forbidden)


class TestBudgets:
    async def test_a_new_one_has_the_defaults_of_the_contract(self, api: Api) -> None:
        made = await make_budget(api)
        assert made["id"].startswith("bud_")
        assert made["scope"] == {"tenant": "acme", "agent": None, "provider": None, "model": None, "label": None}
        assert (made["limitUsd"], made["remainingUsd"], made["spentUsd"], made["heldUsd"]) == ("250", "250", "0", "0")
        assert (made["period"], made["timeZone"], made["enforcement"]) == ("MONTH", "UTC", "BLOCK")
        assert (made["thresholds"], made["version"], made["deletedAt"]) == ([80, 90, 100], 1, None)

    async def test_a_second_one_of_the_same_name_is_a_conflict(self, api: Api) -> None:
        await make_budget(api)
        assert (await make_budget(api))["__typename"] == "Conflict"

    @pytest.mark.parametrize(
        ("changes", "path"),
        [
            ({"limitUsd": "-1"}, ["limitUsd"]),
            ({"name": ""}, ["name"]),
            ({"name": "a\0b"}, ["name"]),
            ({"timeZone": "Mars/Olympus"}, ["timeZone"]),
            ({"thresholds": [0]}, ["thresholds"]),
            ({"scope": {"agent": ""}}, ["scope", "agent"]),
            ({"scope": {"label": {"key": "", "value": "v"}}}, ["scope", "label", "key"]),
        ],
    )
    async def test_bad_input_is_named_by_its_path(self, api: Api, changes: Data, path: list[str]) -> None:
        answer = await make_budget(api, **changes)
        assert (answer["__typename"], answer["path"]) == ("InvalidInput", path)

    async def test_pages_come_in_order_and_end(self, api: Api) -> None:
        for name in ("c", "a", "b"):
            await make_budget(api, name=name)
        query = """query Page($after: Cursor) {
            budgets(first: 2, after: $after) { nodes { name } pageInfo { hasNextPage endCursor } } }"""
        first = (await api.data(query))["budgets"]
        second = (await api.data(query, after=first["pageInfo"]["endCursor"]))["budgets"]
        assert [node["name"] for node in first["nodes"] + second["nodes"]] == ["a", "b", "c"]
        assert (first["pageInfo"]["hasNextPage"], second["pageInfo"]["hasNextPage"]) == (True, False)

    async def test_a_change_acts_once_and_guards_against_lost_updates(self, api: Api) -> None:
        made = await make_budget(api)
        change = """mutation Change($input: BudgetUpdateInput!) { budgetUpdate(input: $input) {
            __typename ... on Budget { limitUsd version } ... on Problem { code } } }"""
        asked = {"id": made["id"], "expectedVersion": 1, "limitUsd": "300.50"}
        changed = (await api.data(change, input=asked))["budgetUpdate"]
        assert changed == {"__typename": "Budget", "limitUsd": "300.5", "version": 2}
        assert (await api.data(change, input=asked))["budgetUpdate"] == {"__typename": "Conflict", "code": "CONFLICT"}

    async def test_a_deleted_one_is_still_found_by_its_id_but_not_listed(self, api: Api) -> None:
        made = await make_budget(api)
        delete = "mutation Drop($id: ID!) { budgetDelete(id: $id) { __typename ... on Deleted { id } } }"
        assert (await api.data(delete, id=made["id"]))["budgetDelete"] == {"__typename": "Deleted", "id": made["id"]}
        assert (await api.data(delete, id=made["id"]))["budgetDelete"] == {"__typename": "NotFound"}
        found = await api.data("query Find($id: ID!) { budget(id: $id) { deletedAt } budgets { nodes { id } } }", id=made["id"])
        assert found["budget"]["deletedAt"] is not None
        assert found["budgets"]["nodes"] == []

    async def test_a_key_bound_to_an_agent_sees_and_makes_only_its_agents(self, api: Api) -> None:
        of_all = await make_budget(api)
        of_agent = await make_budget(api, BOUND, name="Ours")
        assert of_agent["scope"]["agent"] == "research"
        seen = await api.data(
            "query See($a: ID!, $b: ID!) { a: budget(id: $a) { id } b: budget(id: $b) { id } budgets { nodes { name } } }",
            BOUND,
            a=of_all["id"],
            b=of_agent["id"],
        )
        assert seen == {"a": None, "b": {"id": of_agent["id"]}, "budgets": {"nodes": [{"name": "Ours"}]}}


class TestCosts:
    async def test_totals_and_rows_agree_with_the_answers(self, api: Api) -> None:
        answers = [await ask(api, agent=agent, labels=[{"key": "team", "value": agent}]) for agent in ("a", "b")]
        report = await spend(
            api, groupBy=["AGENT", "LABEL", "DAY"], labelKey="team", orderBy={"field": "COST", "direction": "ASC"}
        )
        spent = sum(Decimal(answer["costUsd"]) for answer in answers)
        assert Decimal(report["totals"]["costUsd"]) == spent
        assert report["totals"]["requests"] == "2"
        assert {(row["agent"], row["label"]) for row in report["rows"]["nodes"]} == {("a", "a"), ("b", "b")}
        assert {row["provider"] for row in report["rows"]["nodes"]} == {None}

    async def test_without_dimensions_there_are_totals_alone(self, api: Api) -> None:
        await ask(api)
        report = await spend(api)
        assert (report["rows"]["nodes"], report["totals"]["requests"]) == ([], "1")

    @pytest.mark.parametrize(
        ("variables", "path"),
        [
            ({"groupBy": ["DAY", "HOUR"]}, ("groupBy",)),
            ({"groupBy": ["PROVIDER", "MODEL", "AGENT", "DAY"]}, ("groupBy",)),
            ({"groupBy": ["LABEL"]}, ("labelKey",)),
            ({"groupBy": ["LABEL"], "labelKey": "a\0"}, ("labelKey",)),
            ({"groupBy": ["MODEL"], "first": -1}, ("first",)),
            ({"groupBy": ["MODEL"], "first": 0}, ("first",)),
            ({"groupBy": ["MODEL"], "first": 101}, ("first",)),
            ({"groupBy": ["MODEL"], "after": "bm90IG91cnM"}, ("after",)),
            ({"filter": {**EVER, "timeZone": "Mars"}}, ("filter", "timeZone")),
            ({"filter": {**EVER, "models": ["a", ""]}}, ("filter", "models", "1")),
            ({"filter": {"period": {"from": "2026-02-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}}}, ("filter", "period", "to")),
            (
                {"filter": {"period": {"from": "0001-02-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}}},
                ("filter", "period", "from"),
            ),
        ],
    )
    async def test_bad_input_is_an_error_with_its_path(self, api: Api, variables: Data, path: tuple[str, ...]) -> None:
        raised = await api.raised(COSTS, **{"filter": EVER, **variables})
        assert isinstance(raised, Refused)
        assert isinstance(raised.reason, InvalidInput)
        assert raised.reason.path == path

    async def test_a_record_shows_the_rates_it_was_charged_by(self, api: Api) -> None:
        answer = await ask(api)
        query = """query Records($filter: CostFilter!) { usageRecords(filter: $filter) { nodes {
            id completionId at operation tenant agent keyName providerRequestId provider model outcome costUsd cacheTier latencyMs
            confirmed price { inputUsd outputUsd cacheReadUsd cacheWriteUsd source } usage { inputTokens outputTokens }
        } } }"""
        [record] = (await api.data(query, filter=EVER))["usageRecords"]["nodes"]
        assert (record["completionId"], record["costUsd"], record["keyName"]) == (answer["id"], answer["costUsd"], "key 1")
        exact = sum(
            Decimal(record["price"][rate]) * record["usage"][tokens] / 1_000_000
            for rate, tokens in (("inputUsd", "inputTokens"), ("outputUsd", "outputTokens"))
        )
        assert exact == Decimal(record["costUsd"])
        assert (await api.data("query Find($id: ID!) { node(id: $id) { id } }", id=record["id"]))["node"] == {"id": record["id"]}

    async def test_a_key_bound_to_an_agent_sees_only_its_agents_costs(self, api: Api) -> None:
        await ask(api, agent="sales")
        await ask(api, BOUND)
        assert (await spend(api, BOUND))["totals"]["requests"] == "1"
        assert isinstance(await api.raised(COSTS, BOUND, filter={**EVER, "agents": ["sales"]}), Forbidden)


class TestProviders:
    async def test_each_shows_its_state_its_models_and_their_prices(self, api: Api) -> None:
        found = await api.data(
            """{ providers {
                id name kind health breakers { model breaker { status consecutiveFailures openedCount probeAt } }
                limiters { model kind capacity available refillPerSecond waiting shared }
                metrics { windowSeconds requests failures successRate } models { provider name inputPriceUsd outputPriceUsd }
            } models(provider: "openai") { name inputPriceUsd } routes { name strategy targets } }"""
        )
        assert [(each["id"], each["kind"]) for each in found["providers"]] == [
            ("prv_anthropic", "anthropic (simulator)"),
            ("prv_openai", "openai (simulator)"),
        ]
        prices = {model["name"]: model["inputPriceUsd"] for model in found["models"]}
        assert Decimal(prices["gpt-6-sol"]) > 0
        assert prices["sim-unpriced"] is None
        assert found["routes"][0]["targets"] == ["anthropic/claude-sonnet-5-5", "openai/gpt-6-sol"]

    async def test_a_route_is_explained_without_sending_anything(self, api: Api, simulator: RunningSimulator) -> None:
        explain = """query Explain($input: CompletionInput!) {
            routeExplain(input: $input) { target eligible reason estimatedCostUsd latencyP50Ms } }"""
        routing = {"avoid": ["anthropic"]}
        asked = {"messages": [{"role": "USER", "text": "Hi"}], "maxOutputTokens": 1000, "routing": routing}
        first, last = (await api.data(explain, input=asked))["routeExplain"]
        assert (first["target"], first["eligible"], first["reason"]) == ("openai/gpt-6-sol", True, "number 1 by PRIORITY")
        assert Decimal(first["estimatedCostUsd"]) > 0
        assert (last["target"], last["eligible"], last["reason"]) == ("anthropic/claude-sonnet-5-5", False, "in `avoid`")
        assert [entry for entry in simulator.log() if entry.operation != "models"] == []

    async def test_one_is_a_node(self, api: Api) -> None:
        found = await api.data('{ node(id: "prv_openai") { id ... on Provider { name } } missing: node(id: "prv_x") { id } }')
        assert found == {"node": {"id": "prv_openai", "name": "openai"}, "missing": None}

    async def test_a_breaker_is_reset_by_name(self, api: Api) -> None:
        reset = """mutation Reset($provider: String!, $model: String) { breakerReset(provider: $provider, model: $model) {
            __typename ... on Provider { name } ... on Problem { code } } }"""
        done = await api.data(reset, ADMIN, provider="openai", model="gpt-6-sol")
        assert done["breakerReset"] == {"__typename": "Provider", "name": "openai"}
        missed = await api.data(reset, ADMIN, provider="openai", model="nothing")
        assert missed["breakerReset"] == {"__typename": "NotFound", "code": "NOT_FOUND"}


class TestViewer:
    async def test_a_caller_learns_who_it_is(self, api: Api) -> None:
        found = await api.data("{ viewer { tenant keyName scopes allowance { capacity remaining restoresPerSecond } } }", GLOBEX)
        assert found["viewer"]["tenant"] == "globex"
        assert found["viewer"]["scopes"] == ["COMPLETIONS", "COSTS", "BUDGETS", "BUDGETS_READ", "VECTORS", "CACHE", "PROVIDERS"]
        assert found["viewer"]["allowance"] == {"capacity": 1000, "remaining": 900, "restoresPerSecond": 10.0}
