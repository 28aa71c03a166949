"""Calls that ask for the cache, as tests over GraphQL make them."""

from __future__ import annotations

import asyncio

from app.access.principal import Principal
from tests.schema.api import ACME, Api, Data
from tests.simulators import RunningSimulator

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
COSTS = """
query Costs($filter: CostFilter!) { costs(filter: $filter) { totals { costUsd savedUsd requests cacheHits } } }
"""
USE = {"mode": "USE"}


async def ask(api: Api, caller: Principal = ACME, **changes: object) -> Data:
    asked = {"messages": [{"role": "USER", "text": "What is new?"}], "maxOutputTokens": 50, "cache": USE, **changes}
    answer: Data = (await api.data(ASK, caller, input=asked))["completionCreate"]
    return answer


def calls(simulator: RunningSimulator) -> int:
    return sum(entry.operation == "completion" for entry in simulator.log())


async def until_ready(api: Api) -> None:
    """Waits until the process knows what has been invalidated."""
    async with asyncio.timeout(10):
        while not api.services.cache.is_ready:  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0.01)
