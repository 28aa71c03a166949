"""PostgreSQL stops answering: no answer is given that the ledger does not have, and service returns with it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from tests.integration.test_accounting import COMPLETE
from tests.processes import family, frozen, named
from tests.servers import RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(180)]

SOON_SECONDS = 20
"""Below what a statement may take."""
BUDGETS = "{ budgets { nodes { name } } }"
RECORDS = """{
  usageRecords(filter: { period: { from: "2026-01-01T00:00:00Z", to: "2027-01-01T00:00:00Z" } }) { nodes { costUsd } }
}"""
NEW_BUDGET = """mutation {
  budgetCreate(input: { name: "never", scope: { tenant: "default" }, limitUsd: "1" }) { __typename }
}"""
VARIABLES = {"input": {"messages": [{"role": "USER", "text": "Are you there?"}], "maxOutputTokens": 50}}


def frozen_postgres(server: RunningServer) -> AbstractContextManager[None]:
    processes = named(family(server.process.pid), "postgres")
    assert processes
    return frozen(processes)


async def complete(session: aiohttp.ClientSession, server: RunningServer, key: str) -> dict[str, object]:
    return await ask(session, server, key, {"query": COMPLETE, "variables": VARIABLES})


async def ask(session: aiohttp.ClientSession, server: RunningServer, key: str, body: dict[str, object]) -> dict[str, object]:
    async with session.post(server.url, json=body, headers={"Authorization": f"Bearer {key}"}) as response:
        answer: dict[str, object] = await response.json(content_type=None)
        return answer


def codes(answer: dict[str, object]) -> list[object]:
    errors = cast("list[dict[str, dict[str, object]]]", answer.get("errors", []))
    return [error["extensions"]["code"] for error in errors]


class TestPostgresGone:
    async def test_a_completion_is_refused_and_serves_again_when_postgres_does(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data") as server:
            key = server.key
            assert key is not None
            async with aiohttp.ClientSession() as session:
                assert codes(await complete(session, server, key)) == []
                sent_before = len(server.simulator_log)
                with frozen_postgres(server):
                    assert codes(await complete(session, server, key)) == ["STORE_UNAVAILABLE"]
                    assert len(server.simulator_log) == sent_before, "a provider was asked for a call that could not be admitted"
                    async with session.get(f"{server.address}/ready") as ready:
                        assert ready.status == 503
                    async with session.get(f"{server.address}/healthz") as alive:
                        assert alive.status == 200
                deadline = time.monotonic() + 30
                while codes(answer := await complete(session, server, key)):
                    assert time.monotonic() < deadline, answer
                    await asyncio.sleep(0.2)

    async def test_whatever_else_is_asked_is_refused_in_seconds_too(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data") as server:
            key = server.key
            assert key is not None
            async with aiohttp.ClientSession() as session:
                asked: list[dict[str, object]] = [{"query": query} for query in (BUDGETS, RECORDS, NEW_BUDGET)]
                for body in asked[:2]:
                    assert codes(await ask(session, server, key, body)) == []
                with frozen_postgres(server):
                    async with asyncio.timeout(SOON_SECONDS):
                        answers = await asyncio.gather(*(ask(session, server, key, body) for body in asked))
                assert [codes(answer) for answer in answers] == [["STORE_UNAVAILABLE"]] * len(asked)
                assert codes(await ask(session, server, key, asked[0])) == []
