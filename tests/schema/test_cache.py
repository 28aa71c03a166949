"""Repeated work over GraphQL: given from the cache at no cost, to no other tenant, and gone once it is invalidated."""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal

import pytest

from app.access.principal import Principal
from tests.schema.api import ACME, ADMIN, BOUND, GLOBEX, Api, Data
from tests.schema.requests import EVER, make_budget
from tests.simulators import RunningSimulator, StepFields

pytestmark = pytest.mark.anyio

ASK = """
mutation Ask($input: CompletionInput!) {
  completionCreate(input: $input) {
    __typename
    ... on Completion {
      id status text finishReason provider model costUsd cacheKey cache { tier ageSeconds savedUsd } notes
      attempts { id } usage { totalTokens } labels { key value } agent toolCalls { id name arguments }
    }
    ... on Problem { code message }
    ... on InvalidInput { path }
  }
}
"""
INVALIDATE = """
mutation Invalidate($input: CacheInvalidateInput!) {
  cacheInvalidate(input: $input) { __typename ... on CacheInvalidated { entries } ... on InvalidInput { message path } }
}
"""
STATS = "{ cacheStats { hits misses hitRate savedUsd tiers { tier available hits misses entries bytes evictions } } }"
COSTS = """
query Costs($filter: CostFilter!) { costs(filter: $filter) { totals { costUsd savedUsd requests cacheHits } } }
"""
USE = {"mode": "USE"}


async def ask(api: Api, caller: Principal = ACME, **changes: object) -> Data:
    asked = {"messages": [{"role": "USER", "text": "What is new?"}], "maxOutputTokens": 50, "cache": USE, **changes}
    answer: Data = (await api.data(ASK, caller, input=asked))["completionCreate"]
    return answer


async def invalidate(api: Api, caller: Principal = ACME, *, dry_run: bool = False, **select: object) -> Data:
    asked = {"select": select, "dryRun": dry_run}
    answer: Data = (await api.data(INVALIDATE, caller, input=asked))["cacheInvalidate"]
    return answer


def calls(simulator: RunningSimulator) -> int:
    return sum(entry.operation == "completion" for entry in simulator.log())


@pytest.fixture(autouse=True)
async def ready(api: Api) -> None:
    """The process knows what has been invalidated."""
    async with asyncio.timeout(10):
        while not api.services.cache.is_ready:  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0.01)


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


WATCH = """
subscription Watch($input: CompletionInput!) {
  completionStream(input: $input) {
    __typename
    ... on CompletionStarted { completionId }
    ... on CompletionDelta { text }
    ... on ToolCallDelta { toolCallId name argumentsDelta }
    ... on CompletionFinished { completion { id text costUsd cacheKey cache { tier savedUsd } attempts { id } } }
    ... on CompletionFailed { problem { ... on Problem { code message } } }
  }
}
"""


async def watch(api: Api, caller: Principal = ACME, **changes: object) -> list[Data]:
    asked = {"messages": [{"role": "USER", "text": "What is new?"}], "maxOutputTokens": 50, "cache": USE, **changes}
    return [event["completionStream"] async for event in api.events(WATCH, caller, input=asked)]


def text_of(events: list[Data]) -> str:
    return "".join(event["text"] or "" for event in events if event["__typename"] == "CompletionDelta")


class TestAStream:
    async def test_is_stored_and_replayed(self, api: Api, simulator: RunningSimulator) -> None:
        first, second = await watch(api), await watch(api)
        for events in (first, second):
            assert events[0]["__typename"] == "CompletionStarted"
            assert events[-1]["__typename"] == "CompletionFinished"
            assert text_of(events) == events[-1]["completion"]["text"] == text_of(first)
        given = second[-1]["completion"]
        assert first[-1]["completion"]["cache"] is None
        assert [given["cache"]["tier"], given["attempts"], Decimal(given["costUsd"])] == ["MEMORY", [], 0]
        assert Decimal(given["cache"]["savedUsd"]) == Decimal(first[-1]["completion"]["costUsd"])
        assert calls(simulator) == 1

    async def test_and_a_whole_answer_share_what_is_stored(self, api: Api, simulator: RunningSimulator) -> None:
        whole = await ask(api)
        assert text_of(await watch(api)) == whole["text"]
        assert (await ask(api))["cache"] is not None
        assert calls(simulator) == 1

    async def test_is_counted_with_what_it_saved(self, api: Api) -> None:
        first = await ask(api)
        await watch(api)
        totals = (await api.data(COSTS, filter=EVER))["costs"]["totals"]
        assert (totals["requests"], totals["cacheHits"]) == ("2", "1")
        assert Decimal(totals["savedUsd"]) == Decimal(totals["costUsd"]) == Decimal(first["costUsd"])

    async def test_of_tool_calls_is_replayed(self, api: Api, simulator: RunningSimulator) -> None:
        tools = [{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]
        seen: list[tuple[str, str]] = []
        for _ in range(2):
            events = await watch(api, tools=tools, messages=[{"role": "USER", "text": "Ask weather."}], maxOutputTokens=400)
            deltas = [event for event in events if event["__typename"] == "ToolCallDelta"]
            seen.append((deltas[0]["name"], "".join(delta["argumentsDelta"] for delta in deltas)))
        assert seen[0] == seen[1]
        assert seen[0][0] == "weather"
        assert calls(simulator) == 1

    async def test_at_once_makes_one_origin_call(self, api: Api, simulator: RunningSimulator) -> None:
        streams = await asyncio.gather(*(watch(api) for _ in range(20)), *(ask(api) for _ in range(5)))
        assert calls(simulator) == 1
        assert len({text_of(events) for events in streams[:20] if isinstance(events, list)}) == 1

    async def test_that_failed_at_the_providers_fails_for_all_who_waited(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "status", "status": 400, "count": None, "headers_delay_ms": 300, "operation": "completion"})
        streams = await asyncio.gather(*(watch(api, model="openai/gpt-6-luna") for _ in range(3)))
        assert {events[-1]["__typename"] for events in streams} == {"CompletionFailed"}
        assert calls(simulator) == 1

    async def test_with_an_idempotency_key_is_the_same_completion(self, api: Api) -> None:
        await ask(api)
        first, second = [await watch(api, idempotencyKey="again") for _ in range(2)]
        assert first[-1]["completion"] == second[-1]["completion"]
        assert first[-1]["completion"]["cache"] is not None


class Watcher:
    """One stream that is read event by event, while others run."""

    def __init__(self, api: Api, **changes: object) -> None:
        asked = {"messages": [{"role": "USER", "text": "What is new?"}], "maxOutputTokens": 60, "cache": USE, **changes}
        self._events = api.events(WATCH, ACME, input=asked)
        self.seen: list[Data] = []

    async def until(self, *kinds: str) -> Data:
        """Returns the next event of these kinds."""
        async for event in self._events:
            self.seen.append(event["completionStream"])
            if self.seen[-1]["__typename"] in kinds:
                return self.seen[-1]
        raise AssertionError(f"the stream has ended: {self.seen}")

    async def to_the_end(self) -> Data:
        async for event in self._events:
            self.seen.append(event["completionStream"])
        return self.seen[-1]

    async def leave(self) -> None:
        await self._events.aclose()


SLOW: StepFields = {"token_delay_ms": 40, "count": None, "operation": "completion"}


class TestAStreamThatFollowsAnother:
    async def test_shows_the_answer_while_it_comes(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        leader, joined = Watcher(api), Watcher(api)
        await leader.until("CompletionDelta")
        await joined.until("CompletionDelta")
        late = Watcher(api)
        await late.until("CompletionDelta")
        assert calls(simulator) == 1
        assert simulator.log()[-1].state == "open"
        made = (await leader.to_the_end())["completion"]
        for each in (joined, late):
            given = (await each.to_the_end())["completion"]
            assert text_of(each.seen) == given["text"] == made["text"] == text_of(leader.seen)
            assert [given["cache"]["tier"], given["attempts"], Decimal(given["costUsd"])] == ["MEMORY", [], 0]
            assert Decimal(given["cache"]["savedUsd"]) == Decimal(made["costUsd"]) > 0
        totals = (await api.data(COSTS, filter=EVER))["costs"]["totals"]
        assert (totals["requests"], totals["cacheHits"], Decimal(totals["costUsd"])) == ("3", "2", Decimal(made["costUsd"]))
        assert calls(simulator) == 1

    async def test_breaks_as_that_one_breaks(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post(SLOW | {"fault": "cut", "after_tokens": 20})
        leader, joined = Watcher(api, model="openai/gpt-6-luna"), Watcher(api, model="openai/gpt-6-luna")
        await leader.until("CompletionDelta")
        await joined.until("CompletionDelta")
        ends = [await each.to_the_end() for each in (leader, joined)]
        assert [end["problem"]["code"] for end in ends] == ["PROVIDER_ERROR"] * 2
        assert text_of(joined.seen) == text_of(leader.seen)
        assert calls(simulator) == 1

    async def test_fails_if_the_other_caller_leaves_after_it_has_shown_something(
        self, api: Api, simulator: RunningSimulator
    ) -> None:
        simulator.post(SLOW)
        leader, joined = Watcher(api, onClientLeave="CANCEL"), Watcher(api)
        await leader.until("CompletionDelta")
        await joined.until("CompletionDelta")
        await leader.leave()
        end = await joined.to_the_end()
        assert (end["__typename"], end["problem"]["code"]) == ("CompletionFailed", "PROVIDER_ERROR")
        assert calls(simulator) == 1

    async def test_begins_anew_if_it_may(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post(SLOW)
        leader, joined = Watcher(api, onClientLeave="CANCEL"), Watcher(api, restart=True)
        await leader.until("CompletionDelta")
        await joined.until("CompletionDelta")
        await leader.leave()
        await joined.until("CompletionRestarted")
        own = len(joined.seen)
        made = (await joined.to_the_end())["completion"]
        assert text_of(joined.seen[own:]) == made["text"]
        assert (made["cache"], len(made["attempts"]), Decimal(made["costUsd"]) > 0) == (None, 1, True)
        assert (await ask(api, maxOutputTokens=60))["cache"] is not None
        assert calls(simulator) == 2

    async def test_makes_the_call_if_the_other_caller_leaves_before_that(self, api: Api, simulator: RunningSimulator) -> None:
        simulator.post({"headers_delay_ms": 400, "count": None, "operation": "completion"})
        leader, joined = Watcher(api, onClientLeave="CANCEL"), Watcher(api)
        await leader.until("CompletionStarted")
        waiting = asyncio.create_task(joined.to_the_end())
        async with asyncio.timeout(10):
            while not calls(simulator):  # noqa: ASYNC110 (the condition is another party's state)
                await asyncio.sleep(0.02)
        await leader.leave()
        made = (await waiting)["completion"]
        assert (made["cache"], Decimal(made["costUsd"]) > 0) == (None, True)
        assert calls(simulator) == 2


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
