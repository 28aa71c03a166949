"""Servers that are replaced one by one under load: no client notices, if they drain. The same without draining must fail, or this
shows nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.drills.rolling import ALERTS, BUDGET, COMPLETE, Client, Follower, start_cluster

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.long, pytest.mark.timeout(400)]

STREAMS = 300
FOLLOWERS = 20
CALLS_PER_SECOND = 8


@pytest.fixture
def stores(database_url: str, owner_url: str, valkey_url: str) -> dict[str, str]:
    content = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    values = {"PRIMARY": database_url, "OWNER": owner_url, "REDIS": valkey_url, "PROVIDER": "sk-any", "CONTENT": content}
    return {f"ROLL_{name}": value for name, value in values.items()}


async def rolled(folder: Path, stores: dict[str, str], drain_delay: str, sign: signal.Signals) -> tuple[Client, list[list[str]]]:
    """Returns the client, and the alerts that each follower saw."""
    with start_cluster(folder, stores, drain_delay=drain_delay) as (cluster, key):
        headers = {"Authorization": f"Bearer {key}"}
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(60)
        async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as session:
            client, enough, over = Client(cluster.address, session), asyncio.Event(), asyncio.Event()
            followers = [Follower(client, ALERTS, {}, over) for _ in range(FOLLOWERS)]
            following = [asyncio.create_task(each.follow()) for each in followers]
            await asyncio.sleep(1)
            work = [asyncio.create_task(client.stream_again_and_again(number, enough)) for number in range(STREAMS)]
            work.append(asyncio.create_task(client.call_openly(CALLS_PER_SECOND, enough)))
            work.append(asyncio.create_task(raise_alerts(client, enough)))
            await asyncio.sleep(3)
            statuses = await cluster.roll(sign)
            enough.set()
            await asyncio.gather(*work)
            await asyncio.sleep(3)
            over.set()
            await asyncio.gather(*following)
        if sign is signal.SIGTERM:
            assert statuses == [0, 0, 0]
        return client, [[event["alert"]["id"] for event in each.events if "alert" in event] for each in followers]


async def raise_alerts(client: Client, until: asyncio.Event) -> None:
    """A budget that one call exceeds, again and again."""
    number = 0
    while not until.is_set():
        number += 1
        client.alerts += 1
        budget = {"name": f"small {number}", "scope": {"agent": f"agent-{number}"}, "limitUsd": "0.01", "thresholds": [1]}
        await client.execute(BUDGET, input=budget)
        asked = {
            "model": "openai/gpt-5.4-mini",
            "messages": [{"role": "USER", "text": "Raise an alert"}],
            "agent": f"agent-{number}",
            "maxOutputTokens": 50,
        }
        await client.execute(COMPLETE, input=asked)
        await asyncio.sleep(1)


class TestRolledOneByOne:
    async def test_with_draining_no_call_fails_and_no_event_is_lost_or_repeated(
        self, tmp_path: Path, stores: dict[str, str]
    ) -> None:
        client, alerts = await rolled(tmp_path, stores, "5s", signal.SIGTERM)
        sys.stdout.write(f"{client.calls} calls, {client.streams} streams, {client.resumed} resumed, {len(alerts[0])} alerts\n")
        assert Counter(failure[:200] for failure in client.failures) == {}
        assert client.resumed >= STREAMS // 2, "hardly any stream was open when its server stopped"
        assert len(set(map(tuple, alerts))) == 1, [len(each) for each in alerts]
        assert max(Counter(alerts[0]).values()) == 1
        assert len(alerts[0]) == client.alerts >= 3

    async def test_killed_without_draining_calls_fail(self, tmp_path: Path, stores: dict[str, str]) -> None:
        client, _ = await rolled(tmp_path, stores, "0s", signal.SIGKILL)
        sys.stdout.write(f"{client.calls} calls, {client.streams} streams, {len(client.failures)} failures\n")
        assert [failure for failure in client.failures if "ProvidersFailed" not in failure] != []
