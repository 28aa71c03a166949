"""Vectors over GraphQL: accounted to the last digit, refused before they are paid for, and each tenant's own."""

from __future__ import annotations

from decimal import Decimal

import pytest
from genai_prices import calc_price, extract_usage

from app.access.principal import Principal
from app.domain.errors import Forbidden
from tests.schema.api import ACME, ADMIN, BOUND, GLOBEX, Api, Data
from tests.schema.requests import EVER, ask, make_budget, spend
from tests.simulators import RunningSimulator

pytestmark = pytest.mark.anyio

EMBED = """
mutation Embed($input: EmbeddingsInput!) {
  embeddingsCreate(input: $input) {
    __typename
    ... on Embeddings {
      provider model dimensions vectors costUsd cachedCount usage { inputTokens outputTokens totalTokens confirmed }
    }
    ... on Problem { code message }
    ... on InvalidInput { path }
    ... on BudgetExceeded { neededUsd remainingUsd budget { name spentUsd heldUsd } }
    ... on ProvidersFailed { retryable attempts { outcome provider reason } }
  }
}
"""
TEXTS = ["A first text, with a few words in it.", "Another one.", "A first text, with a few words in it."]


async def embed(api: Api, caller: Principal = ACME, **changes: object) -> Data:
    answer: Data = (await api.data(EMBED, caller, input={"texts": TEXTS, **changes}))["embeddingsCreate"]
    return answer


def price(simulator: RunningSimulator) -> Decimal:
    """What the simulator saw, priced by the public price list."""
    total = Decimal(0)
    for entry in simulator.log():
        if entry.billed:
            raw = {"model": entry.model, "usage": entry.usage}
            usage = extract_usage(raw, provider_id="openai", api_flavor="embeddings").usage
            total += calc_price(usage, entry.model or "", provider_id="openai").total_price
    return total


def arrived(simulator: RunningSimulator) -> list[str]:
    return [entry.operation for entry in simulator.log() if entry.operation in {"completion", "embedding"}]


class TestVectors:
    async def test_come_in_the_order_of_the_texts(self, api: Api) -> None:
        answer = await embed(api)
        assert (answer["__typename"], answer["provider"], answer["model"]) == (
            "Embeddings",
            "openai",
            "text-embedding-3-small",
        )
        assert [len(vector) for vector in answer["vectors"]] == [1536] * 3
        assert answer["vectors"][0] == answer["vectors"][2] != answer["vectors"][1]
        assert (answer["dimensions"], answer["cachedCount"]) == (1536, 0)

    async def test_can_be_shorter(self, api: Api) -> None:
        answer = await embed(api, dimensions=8, model="openai/text-embedding-3-small")
        assert (answer["dimensions"], [len(vector) for vector in answer["vectors"]]) == (8, [8] * 3)

    async def test_cost_what_the_provider_saw(self, api: Api, simulator: RunningSimulator) -> None:
        answers = [await embed(api, texts=[f"Text {number}, " * (number + 1)], agent="indexer") for number in range(5)]
        spent = price(simulator)
        assert sum(Decimal(answer["costUsd"]) for answer in answers) == spent > 0
        report = await spend(api, groupBy=["OPERATION", "AGENT"])
        [row] = report["rows"]["nodes"]
        assert (row["operation"], row["agent"], row["requests"]) == ("EMBEDDING", "indexer", "5")
        assert Decimal(report["totals"]["costUsd"]) == Decimal(row["costUsd"]) == spent

    async def test_are_paid_for_by_their_input_alone(self, api: Api) -> None:
        answer = await embed(api)
        assert answer["usage"]["outputTokens"] == 0
        assert answer["usage"]["totalTokens"] == answer["usage"]["inputTokens"] > 0
        assert answer["usage"]["confirmed"] is True

    async def test_have_a_usage_record_that_belongs_to_no_completion(self, api: Api) -> None:
        answer = await embed(api, labels=[{"key": "team", "value": "search"}])
        query = """query Records($filter: CostFilter!) { usageRecords(filter: $filter) { nodes {
            completionId operation provider model costUsd labels { key value } usage { inputTokens } } } }"""
        [record] = (await api.data(query, filter={**EVER, "operations": ["EMBEDDING"]}))["usageRecords"]["nodes"]
        assert (record["completionId"], record["operation"], record["costUsd"]) == (None, "EMBEDDING", answer["costUsd"])
        assert record["usage"]["inputTokens"] == answer["usage"]["inputTokens"]
        assert record["labels"] == [{"key": "team", "value": "search"}]

    async def test_show_in_the_metrics_of_their_provider(self, api: Api) -> None:
        spent = [Decimal((await embed(api))["costUsd"]), Decimal((await ask(api, model="openai/gpt-6-sol"))["costUsd"])]
        found = await api.data("{ providers { name metrics { requests costUsd } } }", ADMIN)
        metrics = {each["name"]: each["metrics"] for each in found["providers"]}
        assert Decimal(metrics["openai"]["costUsd"]) == sum(spent)
        assert metrics["anthropic"]["costUsd"] is None


class TestBudgets:
    async def test_refuse_what_they_cannot_pay_for_and_nothing_is_sent(self, api: Api, simulator: RunningSimulator) -> None:
        await make_budget(api, limitUsd="0.000000001")
        answer = await embed(api)
        assert (answer["__typename"], answer["code"]) == ("BudgetExceeded", "BUDGET_EXCEEDED")
        assert answer["budget"] == {"name": "Monthly", "spentUsd": "0", "heldUsd": "0"}
        assert Decimal(answer["neededUsd"]) > Decimal(answer["remainingUsd"])
        assert arrived(simulator) == []

    async def test_hold_the_worst_case_and_then_count_what_it_was(self, api: Api, simulator: RunningSimulator) -> None:
        made = await make_budget(api, limitUsd="1")
        await embed(api)
        found = await api.data("query Find($id: ID!) { budget(id: $id) { spentUsd heldUsd } }", id=made["id"])
        assert (Decimal(found["budget"]["spentUsd"]), found["budget"]["heldUsd"]) == (price(simulator), "0")

    async def test_refuse_a_model_without_a_price(self, api: Api, simulator: RunningSimulator) -> None:
        await make_budget(api)
        answer = await embed(api, model="openai/sim-unpriced")
        assert (answer["__typename"], answer["code"], answer["path"]) == ("InvalidInput", "UNPRICED_MODEL", ["model"])
        assert arrived(simulator) == []


class TestIdempotency:
    async def test_a_repeat_is_given_the_same_vectors_and_charged_once(self, api: Api, simulator: RunningSimulator) -> None:
        answers = [await embed(api, idempotencyKey="once") for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]
        assert arrived(simulator) == ["embedding"]
        assert Decimal((await spend(api))["totals"]["costUsd"]) == price(simulator)

    async def test_the_same_key_with_other_texts_is_a_conflict(self, api: Api) -> None:
        await embed(api, idempotencyKey="once")
        answer = await embed(api, idempotencyKey="once", texts=["Another text."])
        assert (answer["__typename"], answer["code"]) == ("Conflict", "IDEMPOTENCY_MISMATCH")

    async def test_a_key_is_no_other_tenants_and_no_completions(self, api: Api, simulator: RunningSimulator) -> None:
        for caller in (ACME, GLOBEX):
            assert (await embed(api, caller, idempotencyKey="once"))["__typename"] == "Embeddings"
        assert (await ask(api, idempotencyKey="once"))["__typename"] == "Completion"
        assert arrived(simulator) == ["embedding", "embedding", "completion"]

    async def test_a_key_is_no_other_agents(self, api: Api) -> None:
        assert (await embed(api, idempotencyKey="once"))["__typename"] == "Embeddings"
        assert (await embed(api, BOUND, idempotencyKey="once"))["code"] == "IDEMPOTENCY_MISMATCH"


class TestAgents:
    async def test_a_key_bound_to_one_speaks_for_no_other(self, api: Api) -> None:
        await embed(api, BOUND)
        report = await spend(api, groupBy=["AGENT"])
        assert [row["agent"] for row in report["rows"]["nodes"]] == ["research"]
        raised = await api.raised(EMBED, BOUND, input={"texts": ["a"], "agent": "sales"})
        assert isinstance(raised, Forbidden)


class TestTrouble:
    async def test_is_reported_with_its_attempts_and_costs_nothing(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post({"operation": "embedding", "fault": "status", "status": 400, "count": None})
        answer = await embed(api)
        assert (answer["__typename"], answer["retryable"]) == ("ProvidersFailed", False)
        assert [attempt["outcome"] for attempt in answer["attempts"]] == ["FAILED"]
        assert (await spend(api))["totals"]["costUsd"] == "0"

    async def test_that_passes_is_tried_again(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post({"operation": "embedding", "fault": "status", "status": 503})
        assert (await embed(api))["__typename"] == "Embeddings"
        assert arrived(simulator) == ["embedding", "embedding"]

    @pytest.mark.parametrize("model", ["anthropic/claude-haiku-5-5", "nowhere/embed", "openai/other", "elsewhere"])
    async def test_where_no_target_makes_vectors_there_is_no_route(self, api: Api, model: str) -> None:
        answer = await embed(api, model=model)
        assert (answer["__typename"], answer["code"], answer["path"]) == ("InvalidInput", "NO_ROUTE", ["model"])


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "path"),
        [
            ({"texts": []}, ["texts"]),
            ({"texts": ["a", ""]}, ["texts", "1"]),
            ({"texts": ["a", "b\0"]}, ["texts", "1"]),
            ({"texts": ["a\ud800"]}, ["texts", "0"]),
            ({"texts": ["a"] * 2049}, ["texts"]),
            ({"texts": ["a" * 262_145]}, ["texts", "0"]),
            ({"texts": ["a" * 262_144] * 17}, ["texts"]),
            ({"dimensions": 0}, ["dimensions"]),
            ({"dimensions": 16_385}, ["dimensions"]),
            ({"model": ""}, ["model"]),
            ({"timeoutMs": 0}, ["timeoutMs"]),
            ({"idempotencyKey": ""}, ["idempotencyKey"]),
            ({"agent": "x" * 129}, ["agent"]),
            ({"labels": [{"key": "a", "value": ""}]}, ["labels", "0", "value"]),
            ({"routing": {"only": ["nowhere"]}}, ["routing", "only"]),
            ({"cache": {"ttlSeconds": 0}}, ["cache", "ttlSeconds"]),
        ],
    )
    async def test_is_named_by_its_path_and_sends_nothing(
        self, api: Api, simulator: RunningSimulator, changes: Data, path: list[str]
    ) -> None:
        answer = await embed(api, **changes)
        assert (answer["__typename"], answer["path"]) == ("InvalidInput", path)
        assert arrived(simulator) == []
