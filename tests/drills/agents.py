"""Agents that keep asking while things break, and what the ledger has afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import Any, TypeAlias

import aiohttp
import msgspec

from tests.integration.test_accounting import COMPLETE
from tests.servers import Client, RunningServer

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it

RECORDS = """
query($after: Cursor) {
  usageRecords(filter: {period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}, first: 100, after: $after) {
    nodes { completionId agent outcome confirmed providerRequestId costUsd }
    pageInfo { hasNextPage endCursor }
  }
}"""
ALERTS = """
subscription($after: Cursor) {
  budgetAlerts(after: $after) {
    ... on StreamEvent { cursor }
    ... on BudgetAlertRaised { alert { id threshold } }
  }
}"""
_PAUSE_SECONDS = 0.2


@dataclass
class Agents:
    """Many at once, over one server. A call's number is its agent's name; `answered` holds completion ids by number."""

    server: RunningServer
    key: str
    answered: dict[int, str] = field(default_factory=dict)

    def have(self, answers: int) -> bool:
        return len(self.answered) >= answers

    async def ask(self, number: int, idempotency_key: str | None = None) -> bool:
        """True where an answer came."""
        asked = {
            "model": "openai/gpt-5.4-mini",
            "messages": [{"role": "USER", "text": f"Question {number}: are you there?"}],
            "maxOutputTokens": 50,
            "agent": f"agent-{number}",
            "idempotencyKey": idempotency_key,
        }
        headers = {"Authorization": f"Bearer {self.key}"}
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(60)) as session,
                session.post(self.server.url, json={"query": COMPLETE, "variables": {"input": asked}}) as response,
            ):
                answer: Data = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError):
            return False
        completion: Data = (answer.get("data") or {}).get("completionCreate") or {}
        if completion.get("__typename") != "Completion":
            return False
        self.answered[number] = completion["id"]
        return True

    async def ask_all(self, calls: int, *, at_once: int, until_answered: bool, until: Callable[[], bool] = lambda: True) -> None:
        """At least so many calls, and on until `until()` holds. `until_answered`: each is repeated under its idempotency key."""
        numbers = takewhile(lambda number: number < calls or not until(), count())

        async def one() -> None:
            for number in numbers:
                key = f"call-{number}" if until_answered else None
                answered = await self.ask(number, key)
                while until_answered and not answered:
                    await asyncio.sleep(_PAUSE_SECONDS)
                    answered = await self.ask(number, key)

        await asyncio.gather(*(one() for _ in range(at_once)))

    async def records(self) -> list[Data]:
        found: list[Data] = []
        after: str | None = None
        async with aiohttp.ClientSession() as session:
            client = Client(session, self.server, self.key)
            while True:
                page: Data = (await client.execute(RECORDS, {"after": after}))["usageRecords"]  # type: ignore[assignment]  # JSON
                found += page["nodes"]
                if not page["pageInfo"]["hasNextPage"]:
                    return found
                after = page["pageInfo"]["endCursor"]

    async def wait_for(self, query: str, field_: str, value: object, seconds: float) -> None:
        """Until the query's first node has that value."""
        deadline = time.monotonic() + seconds
        async with aiohttp.ClientSession() as session:
            while (nodes := await _nodes(Client(session, self.server, self.key), query))[0][field_] != value:
                assert time.monotonic() < deadline, nodes
                await asyncio.sleep(_PAUSE_SECONDS)


async def _nodes(client: Client, query: str) -> list[Data]:
    (connection,) = (await client.execute(query)).values()
    nodes: list[Data] = connection["nodes"]  # type: ignore[index]  # JSON
    return nodes


async def until_true(holds: Callable[[], bool], seconds: float = 30.0, every: float = 0.1) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(every)


@asynccontextmanager
async def server_processes_killed(
    server: RunningServer, workers: int, every: float, most: int | None = None
) -> AsyncIterator[list[int]]:
    """One in turn every so many seconds, once all are there again, `most` in all; what is yielded grows by the process ids."""
    killed: list[int] = []

    async def kill() -> None:
        while most is None or len(killed) < most:
            await asyncio.sleep(every)
            alive = server.servers
            if len(alive) == workers:
                victim = alive[len(killed) % workers].pid
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    killing = asyncio.create_task(kill())
    try:
        yield killed
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)


@asynccontextmanager
async def alerts_followed(server: RunningServer, key: str) -> AsyncIterator[list[int]]:
    """By a subscriber that comes back with its cursor whenever its connection breaks; what is yielded grows by thresholds."""
    seen: list[int] = []
    following = asyncio.create_task(_follow(server, key, seen))
    try:
        yield seen
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _follow(server: RunningServer, key: str, seen: list[int]) -> None:
    cursor: str | None = None
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    while True:
        body = {"query": ALERTS, "variables": {"after": cursor}}
        try:
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.post(server.url, json=body) as response,
            ):
                async for line in response.content:
                    if line.startswith(b"data: "):
                        event: Data = msgspec.json.decode(line[6:])["data"]["budgetAlerts"]
                        cursor = event["cursor"]
                        seen += [event["alert"]["threshold"]] if "alert" in event else []
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(_PAUSE_SECONDS)
