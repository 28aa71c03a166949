"""Repeated work over GraphQL: given from the cache at no cost, to no other tenant, and gone once it is invalidated."""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal

import pytest

from app.access.principal import Principal
from tests.schema.api import ACME, ADMIN, BOUND, GLOBEX, Api, Data
from tests.schema.cached import COSTS, USE, ask, calls, until_ready
from tests.schema.requests import EVER, make_budget
from tests.simulators import RunningSimulator

pytestmark = pytest.mark.anyio

INVALIDATE = """
mutation Invalidate($input: CacheInvalidateInput!) {
  cacheInvalidate(input: $input) { __typename ... on CacheInvalidated { entries } ... on InvalidInput { message path } }
}
"""
STATS = "{ cacheStats { hits misses hitRate savedUsd tiers { tier available hits misses entries bytes evictions } } }"


async def invalidate(api: Api, caller: Principal = ACME, *, dry_run: bool = False, **select: object) -> Data:
    asked = {"select": select, "dryRun": dry_run}
    answer: Data = (await api.data(INVALIDATE, caller, input=asked))["cacheInvalidate"]
    return answer


@pytest.fixture(autouse=True)
async def ready(api: Api) -> None:
    await until_ready(api)


class TestARepeat:
    async def test_is_given_from_memory_and_costs_nothing(self, api: Api, simulator: RunningSimulator) -> None:
        first = await ask(api)
        second = await ask(api, agent="other", labels=[{"key": "team", "value": "b"}], timeoutMs=5000)
        assert (first["cache"], calls(simulator)) == (None, 1)
        assert Decimal(first["costUsd"]) > 0
        assert second["text"] == first["text"]
        assert (second["cache"]["tier"], Decimal(second["cache"]["savedUsd"])) == ("MEMORY", Decimal(first["costUsd"]))
        assert [Decimal(second["costUsd"]), second["attempts"], second["usage"]["totalTokens"]] == [0, [], 0]
        assert (second["agent"], second["labels"]) == ("other", [{"key": "team", "value": "b"}])
        assert second["id"] != first["id"]
        assert first["cacheKey"] == second["cacheKey"]
        assert first["cacheKey"].startswith("completion/default/")

    async def test_makes_one_usage_record_that_says_what_was_saved(self, api: Api) -> None:
        first = await ask(api)
        for _ in range(3):
            await ask(api)
        async with asyncio.timeout(10):
            while (totals := (await api.data(COSTS, filter=EVER))["costs"]["totals"])["requests"] != "4":  # noqa: ASYNC110 (the condition is another party's state)
                await asyncio.sleep(0.02)
        assert totals["cacheHits"] == "3"
        assert (Decimal(totals["costUsd"]), Decimal(totals["savedUsd"])) == (
            Decimal(first["costUsd"]),
            3 * Decimal(first["costUsd"]),
        )

    @pytest.mark.parametrize(
        "changes",
        [
            {"messages": [{"role": "USER", "text": "What is old?"}]},
            {"maxOutputTokens": 51},
            {"temperature": 0.5},
            {"model": "openai/gpt-6-luna"},
            {"stop": ["x"]},
            {"seed": 1},
            {"reasoningEffort": "HIGH"},
            {"routing": {"strategy": "LEAST_COST"}},
            {"tools": [{"name": "t", "parameters": {}}]},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    async def test_of_another_request_is_none(self, api: Api, simulator: RunningSimulator, changes: Data) -> None:
        await ask(api)
        answer = await ask(api, **changes)
        assert answer["cache"] is None
        assert calls(simulator) == 2

    async def test_on_a_route_that_takes_turns_is_the_same(self, api: Api, simulator: RunningSimulator) -> None:
        answers = [await ask(api, routing={"strategy": "ROUND_ROBIN"}) for _ in range(3)]
        assert [answer["cache"] is None for answer in answers] == [True, False, False]
        assert calls(simulator) == 1

    async def test_can_be_read_by_its_id_once_its_record_is_written(self, api: Api) -> None:
        await ask(api)
        second = await ask(api)
        query = "query($id: ID!) { completion(id: $id) { id text cacheKey costUsd cache { tier savedUsd } } }"
        async with asyncio.timeout(10):
            while (found := (await api.data(query, id=second["id"]))["completion"]) is None:  # noqa: ASYNC110 (the condition is another party's state)
                await asyncio.sleep(0.02)
        del second["cache"]["ageSeconds"]
        assert found == {name: second[name] for name in found}

    async def test_of_a_target_that_does_not_exist_is_refused(self, api: Api) -> None:
        answer = await ask(api, model="openai/unheard-of")
        assert (answer["__typename"], answer["code"], answer["path"]) == ("InvalidInput", "NO_ROUTE", ["model"])

    async def test_written_in_another_order_is_the_same(self, api: Api, simulator: RunningSimulator) -> None:
        parameters = {"type": "object", "properties": {"city": {"type": "string"}, "day": {"type": "string"}}}
        turned = {"properties": {"day": {"type": "string"}, "city": {"type": "string"}}, "type": "object"}
        first, second = [await ask(api, tools=[{"name": "t", "parameters": each}]) for each in (parameters, turned)]
        assert second["cacheKey"] == first["cacheKey"]
        assert second["cache"] is not None
        assert calls(simulator) == 1

    async def test_of_a_long_prompt_has_a_short_name(self, api: Api) -> None:
        answer = await ask(api, messages=[{"role": "USER", "text": "Read this. " * 10_000}])
        assert re.fullmatch(r"completion/default/[0-9a-f]{32}", answer["cacheKey"])

    async def test_is_given_to_no_other_tenant_or_agent(self, api: Api, simulator: RunningSimulator) -> None:
        await ask(api)
        for caller in (GLOBEX, BOUND, ADMIN):
            assert (await ask(api, caller))["cache"] is None
        assert calls(simulator) == 4

    async def test_without_being_asked_for_is_paid_again(self, api: Api, simulator: RunningSimulator) -> None:
        await ask(api)
        for cache in (None, {"mode": "OFF"}):
            answer = await ask(api, cache=cache)
            assert (answer["cache"], answer["cacheKey"]) == (None, None)
        assert (await ask(api, cache={"mode": "REFRESH"}))["cache"] is None
        assert calls(simulator) == 4

    async def test_is_given_if_the_budget_is_spent(self, api: Api) -> None:
        await ask(api)
        await make_budget(api, limitUsd="0.000001", enforcement="BLOCK")
        assert (await ask(api))["cache"] is not None
        assert (await ask(api, seed=3))["__typename"] == "BudgetExceeded"
        repeated = [await ask(api, idempotencyKey="again") for _ in range(2)]
        assert repeated[0]["cache"] is not None
        assert repeated[0]["id"] == repeated[1]["id"]

    async def test_with_an_idempotency_key_gives_the_same_completion(self, api: Api, simulator: RunningSimulator) -> None:
        await ask(api)
        first, second = [await ask(api, idempotencyKey="one") for _ in range(2)]
        assert first == second
        assert first["cache"]["tier"] == "MEMORY"
        assert calls(simulator) == 1
        other = await ask(api, idempotencyKey="one", seed=5)
        assert other["__typename"] == "Conflict"

    async def test_at_once_makes_one_origin_call(self, api: Api, simulator: RunningSimulator) -> None:
        answers = await asyncio.gather(*(ask(api) for _ in range(50)))
        assert calls(simulator) == 1
        assert {answer["text"] for answer in answers} == {answers[0]["text"]}
        assert sum(answer["cache"] is None for answer in answers) == 1
        assert sum(Decimal(answer["costUsd"]) > 0 for answer in answers) == 1


EMBED = """
mutation Embed($input: EmbeddingsInput!) {
  embeddingsCreate(input: $input) {
    __typename
    ... on Embeddings { provider model dimensions vectors costUsd cachedCount usage { totalTokens } }
    ... on Problem { code message }
  }
}
"""


async def embed(api: Api, *texts: str, caller: Principal = ACME, **changes: object) -> Data:
    answer: Data = (await api.data(EMBED, caller, input={"texts": texts, "cache": USE, **changes}))["embeddingsCreate"]
    return answer


def embedded(simulator: RunningSimulator) -> int:
    return sum(entry.operation == "embedding" for entry in simulator.log())


class TestVectors:
    async def test_are_stored_text_by_text_and_come_in_order(self, api: Api, simulator: RunningSimulator) -> None:
        alone = [(await embed(api, text, cache=None))["vectors"][0] for text in "abc"]
        first = await embed(api, "a", "b")
        second = await embed(api, "c", "b", "a", "c", "b")
        third = await embed(api, "b", "a", "c")
        assert [first["cachedCount"], second["cachedCount"], third["cachedCount"]] == [0, 3, 3]
        assert second["vectors"] == [alone[2], alone[1], alone[0], alone[2], alone[1]]
        assert third["vectors"] == [alone[1], alone[0], alone[2]]
        assert [Decimal(third["costUsd"]), third["usage"]["totalTokens"]] == [0, 0]
        assert 0 < Decimal(second["costUsd"]) < Decimal(first["costUsd"])
        assert embedded(simulator) == 5

    async def test_that_are_partly_stored_count_what_they_saved(self, api: Api) -> None:
        first = await embed(api, "a", "b")
        second = await embed(api, "b", "c", "b")
        totals = (await api.data(COSTS, filter=EVER))["costs"]["totals"]
        assert (second["cachedCount"], totals["requests"], totals["cacheHits"]) == (2, "2", "0")
        assert Decimal(totals["savedUsd"]) == Decimal(first["costUsd"]) / 2
        assert Decimal(totals["costUsd"]) == Decimal(first["costUsd"]) + Decimal(second["costUsd"])

    async def test_of_one_text_are_made_once_for_all_who_ask_at_once(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post({"headers_delay_ms": 300, "count": None, "operation": "embedding"})
        answers = await asyncio.gather(embed(api, "a", "b"), embed(api, "b", "c"), embed(api, "c", "a"), embed(api, "a"))
        by_text = {
            text: vector
            for answer, texts in zip(answers, ("ab", "bc", "ca", "a"), strict=True)
            for text, vector in zip(texts, answer["vectors"], strict=True)
        }
        assert [answer["vectors"] for answer in answers] == [
            [by_text[text] for text in texts] for texts in ("ab", "bc", "ca", "a")
        ]
        assert (sum(answer["cachedCount"] for answer in answers), embedded(simulator)) == (4, 2)

    async def test_that_the_providers_refused_are_refused_for_all_who_waited(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "status", "status": 400, "count": None, "headers_delay_ms": 300, "operation": "embedding"})
        model = "openai/text-embedding-3-small"
        answers = await asyncio.gather(*(embed(api, "a", model=model) for _ in range(3)))
        assert {answer["__typename"] for answer in answers} == {"ProvidersFailed"}
        assert embedded(simulator) == 1

    async def test_of_another_tenant_or_length_are_others(self, api: Api, simulator: RunningSimulator) -> None:
        await embed(api, "a")
        assert (await embed(api, "a", caller=GLOBEX))["cachedCount"] == 0
        assert (await embed(api, "a", dimensions=8))["cachedCount"] == 0
        assert len((await embed(api, "a", dimensions=8))["vectors"][0]) == 8
        assert embedded(simulator) == 3

    async def test_with_an_idempotency_key_are_the_same_again(self, api: Api, simulator: RunningSimulator) -> None:
        await embed(api, "a")
        first = await embed(api, "a", "b", idempotencyKey="one")
        await embed(api, "b")
        assert await embed(api, "a", "b", idempotencyKey="one") == first
        assert first["cachedCount"] == 1
        whole = [await embed(api, "a", "b", idempotencyKey="two") for _ in range(2)]
        assert whole[0] == whole[1]
        assert whole[0]["cachedCount"] == 2
        assert embedded(simulator) == 2

    async def test_are_embedded_anew_if_the_model_of_the_stored_ones_is_gone(self, api: Api, simulator: RunningSimulator) -> None:
        await embed(api, "a")
        simulator.post({"fault": "status", "status": 400, "operation": "embedding"})
        answer = await embed(api, "a", "b")
        assert (answer["__typename"], answer["cachedCount"], len(answer["vectors"])) == ("Embeddings", 0, 2)

    async def test_are_invalidated_by_the_name_of_their_model(self, api: Api) -> None:
        await embed(api, "a", "b")
        assert (await invalidate(api, pattern="embedding/openai/text-embedding-3-small/*"))["entries"] == "2"
        assert (await embed(api, "a"))["cachedCount"] == 0


class TestWhatIsNotStored:
    async def test_an_answer_that_the_cap_cut(self, api: Api, simulator: RunningSimulator) -> None:
        for _ in range(2):
            answer = await ask(api, maxOutputTokens=1)
            assert (answer["finishReason"], answer["cache"]) == ("LENGTH", None)
        assert calls(simulator) == 2


class TestInvalidation:
    @pytest.mark.parametrize("how", ["key", "pattern", "tags", "everything"])
    async def test_makes_a_miss(self, api: Api, simulator: RunningSimulator, how: str) -> None:
        first = await ask(api, cache={"mode": "USE", "tags": ["news"]})
        select = {
            "key": {"key": first["cacheKey"]},
            "pattern": {"pattern": "completion/*"},
            "tags": {"tags": ["news", "other"]},
            "everything": {"everything": True},
        }[how]
        assert await invalidate(api, dry_run=True, **select) == {"__typename": "CacheInvalidated", "entries": "1"}
        assert await invalidate(api, GLOBEX, **select) == {"__typename": "CacheInvalidated", "entries": "0"}
        assert (await ask(api))["cache"] is not None
        assert await invalidate(api, **select) == {"__typename": "CacheInvalidated", "entries": "1"}
        assert (await ask(api))["cache"] is None
        assert (await ask(api))["cache"] is not None
        assert calls(simulator) == 2

    @pytest.mark.parametrize(
        ("select", "path"),
        [
            ({"pattern": ""}, ["select", "pattern"]),
            ({"key": ""}, ["select", "key"]),
            ({"tags": []}, ["select", "tags"]),
            ({"tags": [str(number) for number in range(21)]}, ["select", "tags"]),
            ({"everything": False}, ["select", "everything"]),
            ({"pattern": "a\0"}, ["select", "pattern"]),
        ],
    )
    async def test_of_nothing_is_refused(self, api: Api, select: Data, path: list[str]) -> None:
        answer = await invalidate(api, **select)
        assert (answer["__typename"], answer["path"]) == ("InvalidInput", path)

    async def test_by_several_selectors_is_no_document(self, api: Api) -> None:
        result = await api.run(INVALIDATE, input={"select": {"key": "a", "pattern": "b"}})
        assert result.errors


class TestStats:
    async def test_are_the_tenants_own_and_all_for_admin(self, api: Api) -> None:
        first = await ask(api)
        await ask(api)
        await ask(api, GLOBEX)
        stats = (await api.data(STATS))["cacheStats"]
        assert (stats["hits"], stats["misses"], stats["hitRate"]) == ("1", "1", 0.5)
        assert Decimal(stats["savedUsd"]) == Decimal(first["costUsd"])
        assert [tier["tier"] for tier in stats["tiers"]] == ["MEMORY", "LOCAL_REDIS", "SHARED_REDIS", "POSTGRES"]
        assert [tier["available"] for tier in stats["tiers"]] == [True, False, False, True]
        assert (stats["tiers"][0]["hits"], stats["tiers"][0]["misses"], stats["tiers"][0]["entries"]) == ("1", "1", "2")
        everything = (await api.data(STATS, ADMIN))["cacheStats"]
        assert (everything["hits"], everything["misses"]) == ("1", "2")
