"""A leaked key is revoked on the command line with the calls that run: two server processes end them, and charge what came."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import pytest

from app.gateway.lifecycle import KEY_REVOKED
from tests.drills.agents import until_true
from tests.servers import ROOT, Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(180)]

EACH = 8
"""Calls of each kind."""
SECONDS_TO_END = 5.0
DRIPPING = "Go on [[simulator tokens=600 fault=slow-drip]]"
FIELDS = "id status notes text costUsd"
CREATE = f"mutation($input: CompletionInput!) {{ completionCreate(input: $input) {{ ... on Completion {{ {FIELDS} }} }} }}"
START = "mutation($input: CompletionInput!) { completionStart(input: $input) { ... on Completion { id } } }"
STREAM = """subscription($input: CompletionInput!) { completionStream(input: $input) {
  __typename ... on CompletionStarted { completionId } } }"""
FIND = f"query($id: ID!) {{ completion(id: $id) {{ {FIELDS} }} }}"
SPENT = """{ costs(filter: {period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}) { totals { costUsd } }
  budgets { nodes { heldUsd spentUsd } } }"""
BUDGET = """mutation { budgetCreate(input: {name: "all", scope: {}, limitUsd: "1000"}) { __typename } }"""

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it


def greenlang(server: RunningServer, *words: str) -> str:
    command = [sys.executable, "-m", "app.cli", *words, "--data-dir", str(server.data_dir)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout


def busy_servers(server: RunningServer) -> int:
    """Server processes that have a client's connection."""
    port = urlsplit(server.address).port
    return sum(any(each.laddr.port == port and each.raddr for each in process.net_connections()) for process in server.servers)


def variables() -> Data:
    return {"input": {"messages": [{"role": "USER", "text": DRIPPING}], "maxOutputTokens": 1000}}


async def follow(session: aiohttp.ClientSession, server: RunningServer, key: str, seen: list[str]) -> str:
    """The whole text of a stream; its completion's id is in `seen` once it has begun."""
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    text = ""
    async with session.post(server.url, json={"query": STREAM, "variables": variables()}, headers=headers) as response:
        async for line in response.content:
            text += line.decode()
            if b"completionId" in line:
                seen.append("cmp_" + line.decode().partition("cmp_")[2][:32])
    return text


class TestAKeyRevokedWithItsCalls:
    async def test_ends_them_in_every_process_and_charges_what_came(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data", "--workers", "2") as server:
            assert server.key is not None
            leaked = greenlang(server, "keys", "create", "leaked", "--scope", "COMPLETIONS").strip()
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
                admin, thief = Client(session, server, server.key), Client(session, server, leaked)
                await admin.execute(BUDGET)
                streamed: list[str] = []
                whole = [asyncio.create_task(thief.execute(CREATE, variables())) for _ in range(EACH)]
                streams = [asyncio.create_task(follow(session, server, leaked, streamed)) for _ in range(EACH)]
                started: list[Data] = [await thief.execute(START, variables()) for _ in range(EACH)]
                own: Data = await admin.execute(START, variables())
                await until_true(lambda: len(streamed) == EACH and busy_servers(server) == 2)

                await asyncio.to_thread(greenlang, server, "keys", "revoke", "leaked", "--cancel")
                revoked_at = time.monotonic()
                async with asyncio.timeout(30):
                    answers: list[Data] = await asyncio.gather(*whole)
                    texts = await asyncio.gather(*streams)
                    ended = [answer["completionCreate"] for answer in answers]
                    ids = [*streamed, *(each["completionStart"]["id"] for each in started)]
                    ended += [await self.ended(admin, id_) for id_ in ids]
                seconds = time.monotonic() - revoked_at
                running = await self.find(admin, own["completionStart"]["id"])
                await admin.execute(f'mutation {{ completionCancel(id: "{running["id"]}") {{ __typename }} }}')
                ended.append(await self.find(admin, running["id"]))
                spent: Data = await admin.execute(SPENT)

        assert seconds < SECONDS_TO_END
        assert [(each["status"], each["notes"]) for each in ended[:-1]] == [("CANCELLED", [KEY_REVOKED])] * 3 * EACH
        assert all("CompletionCancelled" in text or "revoked" in text for text in texts)
        assert (running["status"], ended[-1]["notes"]) == ("RUNNING", [])
        charged = sum(Decimal(each["costUsd"]) for each in ended)
        assert Decimal(spent["costs"]["totals"]["costUsd"]) == charged > 0
        assert spent["budgets"]["nodes"] == [{"heldUsd": "0", "spentUsd": spent["costs"]["totals"]["costUsd"]}]

    async def ended(self, client: Client, id_: str) -> Data:
        while (found := await self.find(client, id_))["status"] == "RUNNING":  # noqa: ASYNC110 (another process's state)
            await asyncio.sleep(0.05)
        return found

    async def find(self, client: Client, id_: str) -> Data:
        found: Data = (await client.execute(FIND, {"id": id_}))["completion"]  # type: ignore[assignment]  # JSON
        return found
