"""Processes die while documents come in. After the same calls again every document is there once, and nothing is paid twice.

`DRILL_DOCUMENTS` sets how many documents there are, in calls of a thousand.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from tests.drills.agents import Agents, Data, until_true
from tests.drills.test_money import SHORT_HOLDS, check_sums, restart_postgres, watch_spending
from tests.integration.test_accounting import billed
from tests.servers import ROOT, Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.long, pytest.mark.timeout(400)]

DOCUMENTS = int(os.environ.get("DRILL_DOCUMENTS", "2000"))
A_CALL = 1000
DEADLINE_SECONDS = 240.0
CREATE = 'mutation { collectionCreate(input: {name: "docs", dimensions: 64}) { __typename } }'
UPSERT = """mutation U($input: DocumentsUpsertInput!) { documentsUpsert(input: $input) {
  ... on DocumentsUpserted { upsertedCount unchangedCount failures { id } } } }"""
COUNT = '{ collection(name: "docs") { documentCount } }'
SEARCH = """query S($input: SearchInput!) { search(input: $input) { ... on SearchHits { hits { id } } } }"""
HELD = "{ budgets { nodes { heldUsd } } }"


def documents(start: int) -> list[Data]:
    return [
        {"id": f"d{n}", "text": f"Document {n} has the word w{n}x{n % 97}.", "metadata": {"n": n}}
        for n in range(start, start + A_CALL)
    ]


async def upsert_until_done(client: Client, start: int) -> int:
    """Sends the same call until it reports every document; returns how often it was sent."""
    asked = {"input": {"collection": "docs", "documents": documents(start)}}
    sent = 0
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            sent += 1
            try:
                done = cast(Data, (await client.execute(UPSERT, asked))["documentsUpsert"])
            except (aiohttp.ClientError, AssertionError, ValueError):  # the server or a store is away
                await asyncio.sleep(0.5)
                continue
            if done and done["upsertedCount"] + done["unchangedCount"] == A_CALL:
                return sent
            await asyncio.sleep(0.5)


async def kill_in_turn(server: RunningServer, victims: tuple[str, ...]) -> None:
    for victim in victims:
        await asyncio.sleep(1.5)
        if victim == "server":
            await until_true(lambda: bool(server.servers))
            os.kill(server.servers[0].pid, signal.SIGKILL)
        else:
            await asyncio.to_thread(restart_postgres, server, signal.SIGKILL)
        await until_true(lambda: bool(server.servers))


def check_payments(server: RunningServer, records: list[Data]) -> None:
    """What the provider answered is in the ledger, with its figures or as an estimate, and no request was settled twice."""
    entries = {cast(str, entry["request_id"]): entry for entry in billed(server)}
    confirmed = {record["providerRequestId"] for record in records if record["confirmed"] and record["providerRequestId"]}
    assert confirmed <= entries.keys(), "the ledger has what no provider answered"
    settled = Counter(entries[name]["body_hash"] for name in confirmed)
    assert [times for times in settled.values() if times > 1] == [], "a request was paid twice after it was settled"
    estimates = sum(not record["confirmed"] for record in records)
    assert len(entries) - len(confirmed) <= estimates, "the provider answered what the ledger has not"


@pytest.mark.parametrize("victims", [("server", "postgres", "server"), ("postgres", "server", "postgres")])
async def test_killed_during_ingest(tmp_path: Path, victims: tuple[str, ...]) -> None:
    data_dir = tmp_path / "data"
    with start_server(data_dir, environ=SHORT_HOLDS) as server:
        assert server.key is not None
        await watch_spending(server, server.key)
        async with aiohttp.ClientSession() as session:
            client = Client(session, server, server.key)
            await client.execute(CREATE)
            killing = asyncio.create_task(kill_in_turn(server, victims))
            sent = [await upsert_until_done(client, start) for start in range(0, DOCUMENTS, A_CALL)]
            await killing
            assert sum(sent) > len(sent), "nothing was killed during a call"
            assert (await client.execute(COUNT))["collection"] == {"documentCount": str(DOCUMENTS)}
            for number in range(0, DOCUMENTS, DOCUMENTS // 20):
                words = documents(number - number % A_CALL)[number % A_CALL]["text"]
                asked = {"input": {"collection": "docs", "text": words, "filter": {"where": {"field": "n", "value": number}}}}
                assert (await client.execute(SEARCH, asked))["search"] == {"hits": [{"id": f"d{number}"}]}
        agents = Agents(server, server.key)
        await agents.wait_for(HELD, "heldUsd", "0", 60)
        records = await agents.records()
        check_payments(server, records)
        await check_sums(server, server.key, records)
        command = [sys.executable, "-m", "app.cli", "vectors", "repair", "--check", "--data-dir", str(data_dir)]
        checked = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (checked.returncode, "0 missing, 0 changed, 0 foreign" in checked.stdout) == (0, True), checked.stdout
