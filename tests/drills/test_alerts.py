"""Alerts while server processes die: a subscriber that comes back with a cursor sees each once, and all see them in one order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import aiohttp
import msgspec
import pytest

from tests.drills.agents import Agents, Data, server_processes_killed, until_true
from tests.servers import Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(150)]

BUDGETS = 30
THRESHOLDS = [80, 90, 100]
FOLLOWERS = 4
KILLS = 3
MAX_STAY_SECONDS = 1.5
WATCH = """
subscription($after: Cursor) {
  budgetAlerts(after: $after) { ... on StreamEvent { cursor } ... on BudgetAlertRaised { alert { id } } }
}"""
MAKE = "mutation($input: BudgetCreateInput!) { budgetCreate(input: $input) { __typename } }"
RAISED = "query($after: Cursor) { budgetAlerts(first: 100, after: $after) { nodes { id } pageInfo { hasNextPage endCursor } } }"


class Follower:
    """Leaves again and again, of its own will or because its server died, and comes back where it was."""

    def __init__(self, server: RunningServer, key: str, cursor: str | None = None) -> None:
        self._server = server
        self._headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
        self.cursor = cursor
        self.seen: list[str] = []
        self.visits = 0

    async def follow(self) -> None:
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with asyncio.timeout(MAX_STAY_SECONDS):
                    await self.visit()
            await asyncio.sleep(0.05)

    async def visit(self, *, events: int | None = None) -> None:
        """Until the stream ends, or so many events have come."""
        body = {"query": WATCH, "variables": {"after": self.cursor}}
        async with (
            aiohttp.ClientSession(headers=self._headers) as session,
            session.post(self._server.url, json=body) as response,
        ):
            self.visits += 1
            async for line in response.content:
                if line.startswith(b"data: "):
                    event: Data = msgspec.json.decode(line[6:])["data"]["budgetAlerts"]
                    self.seen += [event["alert"]["id"]] if "alert" in event else []
                    self.cursor = event["cursor"]
                    events = None if events is None else events - 1
                    if events == 0:
                        return


async def make_budgets(server: RunningServer, key: str) -> None:
    """Each is over its thresholds as soon as it is made. A name that is taken was made by a try whose answer was lost."""
    for number in range(BUDGETS):
        asked = {"name": f"b{number}", "scope": {}, "limitUsd": "0.00001", "thresholds": THRESHOLDS, "enforcement": "ALERT_ONLY"}
        while True:
            try:
                async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
                    await Client(session, server, key).execute(MAKE, {"input": asked})
                break
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)


async def raised(server: RunningServer, key: str) -> set[str]:
    found: set[str] = set()
    after: str | None = None
    async with aiohttp.ClientSession() as session:
        while True:
            page = cast(Data, (await Client(session, server, key).execute(RAISED, {"after": after}))["budgetAlerts"])
            found.update(node["id"] for node in page["nodes"])
            if not page["pageInfo"]["hasNextPage"]:
                return found
            after = page["pageInfo"]["endCursor"]


@asynccontextmanager
async def followed(server: RunningServer, key: str) -> AsyncIterator[list[Follower]]:
    """From before the first alert on. When it is left all have seen each alert there is, once and in one order."""
    assert await Agents(server, key).ask(1)
    first = Follower(server, key)
    await first.visit(events=1)
    followers = [Follower(server, key, first.cursor) for _ in range(FOLLOWERS)]
    following = [asyncio.create_task(follower.follow()) for follower in followers]
    try:
        yield followers
        there = await raised(server, key)
        await until_true(lambda: all(len(follower.seen) >= len(there) for follower in followers))
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    assert len(there) == BUDGETS * len(THRESHOLDS)
    for follower in followers:
        assert set(follower.seen) == there
        assert follower.seen == followers[0].seen
        assert len(follower.seen) == len(there), "an alert was seen twice"


@pytest.mark.long
class TestServerProcessesKilledWhileAlertsAreFollowed:
    async def test_every_follower_sees_each_alert_once_and_in_the_same_order(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data", "--workers", "2") as server:
            assert server.key is not None
            async with (
                followed(server, server.key) as followers,
                server_processes_killed(server, workers=2, every=1.5) as killed,
            ):
                await make_budgets(server, server.key)
                await until_true(lambda: len(killed) >= KILLS and min(follower.visits for follower in followers) > 2)
