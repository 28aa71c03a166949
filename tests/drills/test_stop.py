"""A server that is asked to stop waits for its calls no longer than its grace, and what they used is in the ledger."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from tests.integration.test_accounting import COMPLETE
from tests.servers import Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(120)]

CREATE = """
mutation { budgetCreate(input: {name: "all", scope: {}, limitUsd: "10"}) { ... on Budget { id } } }"""
HELD = "{ budgets { nodes { heldUsd } } }"
SPENT = """
{
  budgets { nodes { heldUsd } }
  usageRecords(filter: {period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}) {
    nodes { outcome confirmed costUsd }
  }
}"""
NOTHING_HELD = {"nodes": [{"heldUsd": "0"}]}


async def ask_the_silent(server: RunningServer, key: str) -> None:
    """A call whose provider never answers; its caller is informed when the server stops."""
    messages = [{"role": "USER", "text": "Hello [[simulator fault=silent]]"}]
    async with aiohttp.ClientSession() as session:
        client = Client(session, server, key)
        await client.execute(CREATE)
        call = asyncio.create_task(client.execute(COMPLETE, {"input": {"messages": messages}}))
        for _ in range(200):
            await asyncio.sleep(0.1)
            if (await client.execute(HELD))["budgets"] != NOTHING_HELD:
                break
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.stop)
        with pytest.raises(AssertionError, match="TIMEOUT"):
            await call


class TestStoppedWithCallsThatDoNotEnd:
    async def test_they_are_settled_and_hold_nothing(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data", environ={"GREENLANG_SERVER__SHUTDOWN_GRACE": "1s"}) as server:
            key = server.key
            assert key is not None
            await ask_the_silent(server, key)
        with start_server(tmp_path / "data") as again:
            async with aiohttp.ClientSession() as session:
                found = await Client(session, again, key).execute(SPENT)
        assert found["budgets"] == NOTHING_HELD
        (record,) = cast("dict[str, list[dict[str, object]]]", found["usageRecords"])["nodes"]
        assert (record["outcome"], record["confirmed"]) == ("CANCELLED", False)
        assert record["costUsd"] not in {None, "0"}


class TestStoppedWithCallsThatNobodyWaitsFor:
    async def test_they_are_given_the_grace_to_end_by_themselves(self, tmp_path: Path) -> None:
        """Longer than the second that a settlement is given, and far shorter than the grace."""
        start = "mutation Start($input: CompletionInput!) { completionStart(input: $input) { ... on Completion { id } } }"
        find = "query Find($id: ID!) { completion(id: $id) { status usage { confirmed } } }"
        messages = [{"role": "USER", "text": "Hello [[simulator fault=slow-drip tokens=20]]"}]
        with start_server(tmp_path / "data", environ={"GREENLANG_SERVER__SHUTDOWN_GRACE": "60s"}) as server:
            key = server.key
            assert key is not None
            async with aiohttp.ClientSession() as session:
                begun = await Client(session, server, key).execute(start, {"input": {"messages": messages}})
            await asyncio.to_thread(server.stop)
        with start_server(tmp_path / "data") as again:
            async with aiohttp.ClientSession() as session:
                found = await Client(session, again, key).execute(find, cast("dict[str, object]", begun["completionStart"]))
        assert found == {"completion": {"status": "FINISHED", "usage": {"confirmed": True}}}
