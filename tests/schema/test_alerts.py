"""Alerts over GraphQL: asked for, watched, and hidden from those they do not concern."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from app.access.principal import Principal
from app.domain.errors import Forbidden
from tests.schema.api import ACME, ADMIN, BOUND, GLOBEX, Api, Data
from tests.schema.requests import ask, make_budget

pytestmark = pytest.mark.anyio

ALERTS = """query Alerts($filter: BudgetAlertFilter, $first: Int, $after: Cursor) {
  budgetAlerts(filter: $filter, first: $first, after: $after) {
    nodes { id budgetName threshold spentUsd limitUsd periodStart raisedAt budget { id name limitUsd } }
    pageInfo { hasNextPage endCursor }
  }
}"""
WATCH = """subscription Watch($filter: BudgetAlertFilter, $after: Cursor) {
  budgetAlerts(filter: $filter, after: $after) {
    __typename
    ... on StreamEvent { cursor at }
    ... on BudgetAlertRaised { replayed alert { id threshold budget { name } } }
  }
}"""


async def alerts(api: Api, caller: Principal = ACME, **variables: object) -> list[Data]:
    found: list[Data] = (await api.data(ALERTS, caller, **variables))["budgetAlerts"]["nodes"]
    return found


async def next_alert(events: AsyncIterator[Data]) -> Data:
    """Passes over heartbeats."""
    async with asyncio.timeout(10):
        async for event in events:
            found: Data = event["budgetAlerts"]
            if found["__typename"] != "Heartbeat":
                return found
    raise AssertionError("the stream ended")


async def raise_alerts(api: Api, name: str = "tight") -> None:
    """By a call that takes more than 1 and less than 100 percent."""
    await make_budget(api, name=name, limitUsd="0.005", thresholds=[1, 2, 999])
    await ask(api)


class TestAsking:
    async def test_shows_them_newest_first_with_their_budget(self, api: Api) -> None:
        await raise_alerts(api)
        found = await alerts(api)
        assert {alert["threshold"] for alert in found} <= {1, 2}
        assert {alert["budget"]["name"] for alert in found} == {alert["budgetName"] for alert in found} == {"tight"}
        [node] = [(await api.data("query N($id: ID!) { node(id: $id) { id } }", id=found[0]["id"]))["node"]]
        assert node == {"id": found[0]["id"]}

    async def test_pages_and_filters(self, api: Api) -> None:
        await raise_alerts(api)
        first = (await api.data(ALERTS, first=1))["budgetAlerts"]
        rest = (await api.data(ALERTS, first=5, after=first["pageInfo"]["endCursor"]))["budgetAlerts"]
        assert first["pageInfo"]["hasNextPage"]
        assert sorted(alert["threshold"] for alert in first["nodes"] + rest["nodes"]) == [1, 2]
        assert [alert["threshold"] for alert in await alerts(api, filter={"minThreshold": 2})] == [2]
        assert await alerts(api, filter={"budgetIds": ["bud_" + "0" * 32, "nonsense"]}) == []

    async def test_shows_a_tenant_its_own_alone(self, api: Api) -> None:
        await raise_alerts(api)
        assert await alerts(api, GLOBEX) == []
        assert await alerts(api, BOUND) == []
        assert len(await alerts(api, ADMIN)) == 2
        assert isinstance(await api.raised(ALERTS, GLOBEX, filter={"tenant": "acme"}), Forbidden)


class TestWatching:
    async def test_shows_them_as_they_are_raised_and_again_behind_a_cursor(self, api: Api) -> None:
        async with aclosing(api.events(WATCH)) as live:
            start = (await anext(live))["budgetAlerts"]
            assert start["__typename"] == "Heartbeat"
            await raise_alerts(api)
            seen = [await next_alert(live), await next_alert(live)]
        assert [(event["alert"]["threshold"], event["replayed"]) for event in seen] == [(1, False), (2, False)]
        async with aclosing(api.events(WATCH, after=start["cursor"])) as again:
            assert [await next_alert(again), await next_alert(again)] == [{**event, "replayed": True} for event in seen]
        async with aclosing(api.events(WATCH, after=seen[0]["cursor"])) as later:
            assert (await next_alert(later))["alert"]["threshold"] == 2

    async def test_shows_no_one_another_tenants_or_agents(self, api: Api) -> None:
        async with aclosing(api.events(WATCH)) as own:
            start = (await anext(own))["budgetAlerts"]["cursor"]
            await raise_alerts(api)
            await next_alert(own)
        for caller in (GLOBEX, BOUND):
            async with aclosing(api.events(WATCH, caller, after=start)) as foreign:
                assert (await anext(foreign))["budgetAlerts"]["__typename"] == "Heartbeat"
        assert isinstance(await api.raised(WATCH, GLOBEX, filter={"tenant": "acme"}), Forbidden)
