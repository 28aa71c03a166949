"""Server processes that die every two seconds, each in turn: calls that take as long get answered all the same, by repeats of
their idempotency keys, and each is charged once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.drills.agents import Agents, Data, server_processes_killed
from tests.integration.test_accounting import COMPLETE
from tests.servers import RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(240)]

WORKERS = 2
AGENTS = 6
KILLS = 3
TWO_SECONDS = "[[simulator fault=slow-headers]]"
MAX_SECONDS = 60.0


async def answered(server: RunningServer, number: int) -> tuple[str, float]:
    """The completion's id, and how long it took with all its repeats."""
    begun = time.monotonic()
    asked = {
        "model": "openai/gpt-5.4-mini",
        "messages": [{"role": "USER", "text": f"Question {number} {TWO_SECONDS}"}],
        "maxOutputTokens": 50,
        "idempotencyKey": f"call-{number}",
    }
    while True:
        try:
            async with (
                aiohttp.ClientSession(headers={"Authorization": f"Bearer {server.key}"}) as session,
                session.post(server.url, json={"query": COMPLETE, "variables": {"input": asked}}) as response,
            ):
                answer: Data = await response.json(content_type=None)
        except aiohttp.ClientError:
            answer = {}
        completion: Data = (answer.get("data") or {}).get("completionCreate") or {}
        if completion.get("__typename") == "Completion":
            return completion["id"], time.monotonic() - begun
        assert time.monotonic() - begun < MAX_SECONDS, answer
        await asyncio.sleep(0.1)


class TestServerProcessesThatDieFasterThanLeases:
    async def test_repeats_get_on_and_are_charged_once(self, tmp_path: Path) -> None:
        found: list[tuple[str, float]] = []
        with start_server(tmp_path / "data", "--workers", str(WORKERS)) as server:
            assert server.key is not None
            async with server_processes_killed(server, WORKERS, every=2.0) as killed:

                async def agent(first: int) -> None:
                    number = first
                    while number == first or len(killed) < KILLS:
                        found.append(await answered(server, number))
                        number += AGENTS

                await asyncio.gather(*(agent(first) for first in range(AGENTS)))
            records = await Agents(server, server.key).records()
        succeeded = Counter(record["completionId"] for record in records if record["outcome"] == "SUCCEEDED")
        assert len({key for key, _ in found}) == len(found)
        assert all(succeeded[key] == 1 for key, _ in found)
