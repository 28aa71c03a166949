"""Alerts and running totals as a front-end follows them on a whole server: over WebSocket and over Server-Sent Events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import msgspec
import pytest

from tests.integration.test_accounting import COMPLETE, COSTS
from tests.servers import Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it

ALERTS = """
subscription($after: Cursor) {
  budgetAlerts(after: $after) {
    __typename
    ... on StreamEvent { cursor }
    ... on BudgetAlertRaised { replayed alert { id threshold spentUsd } }
  }
}"""
UPDATES = """
subscription {
  costUpdates(filter: {period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}, minIntervalMs: 300) {
    __typename
    ... on CostUpdate { totals { costUsd requests } }
  }
}"""
MAKE = """mutation {
  budgetCreate(input: {name: "b", scope: {}, limitUsd: "0.00001", thresholds: [80, 100], enforcement: ALERT_ONLY}) { __typename }
}"""
ASKED = {"input": {"messages": [{"role": "USER", "text": "Are you there?"}], "maxOutputTokens": 20}}


async def over_websocket(
    session: aiohttp.ClientSession, server: RunningServer, key: str, query: str, after: str | None = None
) -> AsyncGenerator[Data, None]:
    async with session.ws_connect(server.url, protocols=("graphql-transport-ws",)) as socket:
        await socket.send_json({"type": "connection_init", "payload": {"authorization": f"Bearer {key}"}})
        assert (await socket.receive_json(timeout=10))["type"] == "connection_ack"
        payload = {"query": query} | ({} if after is None else {"variables": {"after": after}})
        await socket.send_json({"type": "subscribe", "id": "1", "payload": payload})
        async for message in socket:
            event = message.json()
            if event["type"] == "next":
                yield event["payload"]["data"]


async def over_sse(session: aiohttp.ClientSession, server: RunningServer, key: str, query: str) -> AsyncGenerator[Data, None]:
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    async with session.post(server.url, json={"query": query}, headers=headers) as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                yield msgspec.json.decode(line[6:])["data"]


async def alerts(events: AsyncGenerator[Data, None], count: int) -> list[Data]:
    """The first so many, without heartbeats."""
    found: list[Data] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            event = (await anext(events))["budgetAlerts"]
            found += [event] if event["__typename"] == "BudgetAlertRaised" else []
    return found


class TestAlertsOverWebSocket:
    async def test_come_as_they_are_raised_and_again_behind_a_cursor(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data", "--workers", "2") as server:
            assert server.key is not None
            async with aiohttp.ClientSession() as session:
                client = Client(session, server, server.key)
                await client.execute(COMPLETE, ASKED)
                async with aclosing(over_websocket(session, server, server.key, ALERTS)) as live:
                    start = (await anext(live))["budgetAlerts"]
                    assert start["__typename"] == "Heartbeat"
                    await client.execute(MAKE)
                    seen = await alerts(live, 2)
                assert [(event["alert"]["threshold"], event["replayed"]) for event in seen] == [(80, False), (100, False)]
                for _ in range(4):
                    async with aclosing(over_websocket(session, server, server.key, ALERTS, start["cursor"])) as again:
                        assert await alerts(again, 2) == [event | {"replayed": True} for event in seen]


class TestRunningTotals:
    async def test_follow_the_costs_and_come_no_oftener_than_asked(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data") as server:
            assert server.key is not None
            async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
                client = Client(session, server, server.key)
                followed = [follow(session, server, server.key, UPDATES) for follow in (over_sse, over_websocket)]
                for events in followed:
                    await stack.enter_async_context(aclosing(events))
                for events in followed:
                    assert (await anext(events))["costUpdates"]["totals"]["requests"] == "0"
                begun = time.monotonic()
                for _ in range(20):
                    await client.execute(COMPLETE, ASKED)
                costs: Any = (await client.execute(COSTS))["costs"]
                for events in followed:
                    updates = await until_requests(events, 20)
                    assert updates[-1]["costUsd"] == costs["totals"]["costUsd"]
                    assert len(updates) <= (time.monotonic() - begun) / 0.3 + 2


async def until_requests(events: AsyncGenerator[Data, None], requests: int) -> list[Data]:
    """The totals up to those with so many requests."""
    found: list[Data] = []
    async with asyncio.timeout(30):
        while not found or int(found[-1]["requests"]) < requests:
            event = (await anext(events))["costUpdates"]
            found += [event["totals"]] if "totals" in event else []
    return found
