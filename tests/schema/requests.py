"""The operations that most tests begin with."""

from __future__ import annotations

from app.access.principal import Principal
from tests.schema.api import ACME, Api, Data

ASK = """
mutation Ask($input: CompletionInput!) {
  completionCreate(input: $input) {
    __typename
    ... on Completion {
      id status text finishReason provider model route costUsd tenant agent cappedByBudget outputCapTokens createdAt finishedAt
      usage { inputTokens outputTokens totalTokens confirmed }
      attempts { id outcome provider model costUsd usage { totalTokens } }
      labels { key value }
    }
    ... on Problem { code message }
    ... on InvalidInput { path }
    ... on BudgetExceeded { neededUsd remainingUsd budget { name remainingUsd } }
  }
}
"""
BUDGET = """
mutation Make($input: BudgetCreateInput!) {
  budgetCreate(input: $input) {
    __typename
    ... on Budget {
      id name scope { tenant agent provider model label { key value } } limitUsd period timeZone thresholds enforcement
      spentUsd heldUsd remainingUsd periodStart periodEnd forecastUsd version deletedAt
    }
    ... on Problem { code message }
    ... on InvalidInput { path }
  }
}
"""
COSTS = """
query Spend(
  $filter: CostFilter!, $groupBy: [CostDimension!], $labelKey: String, $first: Int, $after: Cursor, $orderBy: CostOrder
) {
  costs(filter: $filter, groupBy: $groupBy, labelKey: $labelKey, first: $first, after: $after, orderBy: $orderBy) {
    asOf
    totals { costUsd requests inputTokens unpricedRequests unconfirmedUsd }
    rows { nodes { provider model tenant agent operation label periodStart costUsd requests } pageInfo { hasNextPage endCursor } }
  }
}
"""
EVER = {"period": {"from": "2026-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}}


async def ask(api: Api, caller: Principal = ACME, **changes: object) -> Data:
    asked = {"messages": [{"role": "USER", "text": "What is new?"}], "maxOutputTokens": 50, **changes}
    answer: Data = (await api.data(ASK, caller, input=asked))["completionCreate"]
    return answer


async def make_budget(api: Api, caller: Principal = ACME, **changes: object) -> Data:
    asked = {"name": "Monthly", "scope": {}, "limitUsd": "250", **changes}
    answer: Data = (await api.data(BUDGET, caller, input=asked))["budgetCreate"]
    return answer


async def spend(api: Api, caller: Principal = ACME, **variables: object) -> Data:
    report: Data = (await api.data(COSTS, caller, **{"filter": EVER, **variables}))["costs"]
    return report
