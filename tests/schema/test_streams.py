"""Completions that are watched, as subscribers see them."""

from __future__ import annotations

import pytest

from tests.schema.api import ACME, Api, Data
from tests.schema.requests import make_budget

pytestmark = pytest.mark.anyio

EVENT = """
  __typename
  ... on StreamEvent { cursor at }
  ... on CompletionStarted { completionId }
  ... on CompletionDelta { text }
  ... on CompletionRerouted { attempt { provider outcome } }
  ... on CompletionFinished { completion { id text status costUsd provider } }
  ... on CompletionCancelled { completion { id status } }
  ... on CompletionFailed { problem { __typename ... on Problem { code } ... on InvalidInput { path } } partial { id } }
"""
STREAM = f"subscription Stream($input: CompletionInput!) {{ completionStream(input: $input) {{ {EVENT} }} }}"
EVENTS = f"subscription Watch($id: ID!, $after: Cursor) {{ completionEvents(id: $id, after: $after) {{ {EVENT} }} }}"
START = """mutation Start($input: CompletionInput!) { completionStart(input: $input) {
    __typename ... on Completion { id status text } ... on Problem { code } } }"""
QUESTION = {"messages": [{"role": "USER", "text": "What is new?"}], "maxOutputTokens": 50}


async def streamed(api: Api, **changes: object) -> list[Data]:
    return [event["completionStream"] async for event in api.events(STREAM, ACME, input={**QUESTION, **changes})]


async def watched(api: Api, completion: str, after: str | None = None) -> list[Data]:
    return [event["completionEvents"] async for event in api.events(EVENTS, ACME, id=completion, after=after)]


class TestAStream:
    async def test_begins_with_its_id_and_ends_with_the_whole_answer(self, api: Api) -> None:
        events = await streamed(api)
        assert (events[0]["__typename"], events[-1]["__typename"]) == ("CompletionStarted", "CompletionFinished")
        text = "".join(event["text"] for event in events if event["__typename"] == "CompletionDelta")
        assert text == events[-1]["completion"]["text"]
        assert events[0]["completionId"] == events[-1]["completion"]["id"]

    async def test_of_bad_input_is_one_failure_with_the_path(self, api: Api) -> None:
        [event] = await streamed(api, messages=[])
        assert event["problem"] == {"__typename": "InvalidInput", "code": "INVALID_INPUT", "path": ["messages"]}
        assert event["partial"] is None

    async def test_that_a_budget_cannot_pay_for_is_one_failure(self, api: Api) -> None:
        await make_budget(api, limitUsd="0.000001")
        [event] = await streamed(api)
        assert event["problem"] == {"__typename": "BudgetExceeded", "code": "BUDGET_EXCEEDED"}

    async def test_of_a_repeated_key_gives_the_same_completion(self, api: Api) -> None:
        first, second = [await streamed(api, idempotencyKey="once") for _ in range(2)]
        assert first[-1]["completion"] == second[-1]["completion"]


class TestStartingAndWatching:
    async def test_every_event_comes_once_also_after_a_cursor(self, api: Api) -> None:
        started = (await api.data(START, input=QUESTION))["completionStart"]
        assert (started["__typename"], started["status"], started["text"]) == ("Completion", "RUNNING", None)
        events = await watched(api, started["id"])
        assert events[-1]["__typename"] == "CompletionFinished"
        assert await watched(api, started["id"], after=events[0]["cursor"]) == events[1:]

    async def test_a_cursor_of_another_list_is_a_failure(self, api: Api) -> None:
        started = (await api.data(START, input=QUESTION))["completionStart"]
        [event] = await watched(api, started["id"], after="bm90IG91cnM")
        assert event["problem"] == {"__typename": "InvalidInput", "code": "INVALID_INPUT", "path": ["after"]}

    async def test_what_is_not_there_is_not_found(self, api: Api) -> None:
        [event] = await watched(api, "cmp_" + "0" * 32)
        assert event["problem"] == {"__typename": "NotFound", "code": "NOT_FOUND"}

    async def test_a_cancelled_one_stays_as_it_ended(self, api: Api) -> None:
        started = (await api.data(START, input={**QUESTION, "maxOutputTokens": 2000}))["completionStart"]
        cancel = "mutation Stop($id: ID!) { completionCancel(id: $id) { __typename ... on Completion { status } } }"
        ended = (await api.data(cancel, id=started["id"]))["completionCancel"]
        assert ended["__typename"] == "Completion"
        assert ended["status"] in {"CANCELLED", "FINISHED"}
        last = (await watched(api, started["id"]))[-1]
        assert last["completion"]["status"] == ended["status"]
