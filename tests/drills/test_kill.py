"""Server processes die without a word; nothing that was answered may be lost, and what is left must go on."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from tests.integration.test_accounting import COMPLETE
from tests.servers import Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(180)]

CLIENTS = 20
CALLS = 600
KILLS = 4
RECORDS = """
query($after: Cursor) {
  usageRecords(filter: {period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}, first: 100, after: $after) {
    nodes { completionId outcome confirmed }
    pageInfo { hasNextPage endCursor }
  }
}"""


async def answered_under_kills(server: RunningServer, key: str) -> set[str]:
    """Ids of the completions whose answers arrived while server processes were killed."""
    answered: set[str] = set()
    numbers = iter(range(CALLS))
    kills = iter(range(KILLS))

    async def one_client() -> None:
        for number in numbers:
            variables = {"input": {"messages": [{"role": "USER", "text": f"Question {number}"}], "maxOutputTokens": 50}}
            async with aiohttp.ClientSession() as session:
                try:
                    data = await Client(session, server, key).execute(COMPLETE, variables)
                except aiohttp.ClientError:
                    continue
            answered.add(cast("dict[str, str]", data["completionCreate"])["id"])
            if len(answered) % (CALLS // (KILLS + 2)) == 0 and next(kills, None) is not None:
                os.kill(server.servers[0].pid, signal.SIGKILL)

    await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
    assert next(kills, None) is None, "not every kill was made"
    return answered


async def recorded(server: RunningServer, key: str) -> set[str]:
    found: set[str] = set()
    after: str | None = None
    async with aiohttp.ClientSession() as session:
        while True:
            page = cast(
                "dict[str, object]", (await Client(session, server, key).execute(RECORDS, {"after": after}))["usageRecords"]
            )
            found.update(node["completionId"] for node in cast("list[dict[str, str]]", page["nodes"]))
            info = cast("dict[str, object]", page["pageInfo"])
            if not info["hasNextPage"]:
                return found
            after = cast(str, info["endCursor"])


class TestServerProcessesKilledDuringCompletions:
    @pytest.mark.parametrize("workers", [1, 2])
    async def test_no_answered_completion_is_missing_after_a_restart(self, tmp_path: Path, workers: int) -> None:
        data_dir = tmp_path / "data"
        with start_server(data_dir, "--workers", str(workers)) as server:
            key = server.key
            assert key is not None
            answered = await answered_under_kills(server, key)
        with start_server(data_dir) as again:
            assert again.key is None
            missing = answered - await recorded(again, key)
        assert missing == set()
        assert len(answered) > CALLS // 2
