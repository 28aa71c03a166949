"""Processes die while documents come in. After the same calls again every document is there once, and nothing is paid twice.

`DRILL_DOCUMENTS` sets how many documents there are, in calls of a thousand. In Chroma there are 500, in calls of a hundred.
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
DOCUMENTS_IN_CHROMA, A_CALL_TO_CHROMA = 500, 100
DEADLINE_SECONDS = 240.0
CREATE = 'mutation { collectionCreate(input: {name: "docs", dimensions: 64}) { __typename } }'
CREATE_IN_CHROMA = 'mutation { collectionCreate(input: {name: "docs", dimensions: 64, store: "chroma"}) { __typename } }'
CHROMA = """
[[vectors.stores]]
name = "chroma"
kind = "chroma"
"""
UPSERT = """mutation U($input: DocumentsUpsertInput!) { documentsUpsert(input: $input) {
  ... on DocumentsUpserted { upsertedCount unchangedCount failures { id } } } }"""
COUNT = '{ collection(name: "docs") { documentCount } }'
SEARCH = """query S($input: SearchInput!) { search(input: $input) { ... on SearchHits { hits { id } } } }"""
FOUND = "query S($input: SearchInput!) { search(input: $input) { __typename } }"
HELD = "{ budgets { nodes { heldUsd } } }"


def document(number: int) -> Data:
    return {"id": f"d{number}", "text": f"Document {number} has the word w{number}x{number % 97}.", "metadata": {"n": number}}


async def upsert_until_done(client: Client, start: int, count: int = A_CALL) -> int:
    """Sends the same call until it reports every document; returns how often it was sent."""
    given = [document(number) for number in range(start, start + count)]
    asked = {"input": {"collection": "docs", "documents": given}}
    sent = 0
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            sent += 1
            try:
                done = cast(Data, (await client.execute(UPSERT, asked))["documentsUpsert"])
            except (aiohttp.ClientError, AssertionError, ValueError):  # the server or a store is away
                await asyncio.sleep(0.5)
                continue
            if done and done["upsertedCount"] + done["unchangedCount"] == count:
                return sent
            await asyncio.sleep(0.5)


async def kill_in_turn(server: RunningServer, victims: tuple[str, ...]) -> None:
    for victim in victims:
        await asyncio.sleep(1.5)
        await kill(server, victim)


async def kill(server: RunningServer, victim: str) -> None:
    """Returns when there is another one."""
    match victim:
        case "server":
            await until_true(lambda: bool(server.servers))
            os.kill(server.servers[0].pid, signal.SIGKILL)
        case "postgres":
            await asyncio.to_thread(restart_postgres, server, signal.SIGKILL)
        case "chroma":
            before = chroma_pid(server)
            os.kill(before, signal.SIGKILL)
            await until_true(lambda: chroma_pid(server) != before)
    await until_true(lambda: bool(server.servers))


def chroma_pid(server: RunningServer) -> int:
    return int((server.data_dir / "chroma" / "chroma.pid").read_text(encoding="utf-8"))


async def kill_when_embedded(server: RunningServer, victim: str) -> None:
    """Kills when the provider's log has grown: then the call that runs is about to write."""
    log = server.data_dir / "simulator.jsonl"
    before = log.stat().st_size
    await until_true(lambda: log.stat().st_size > before, every=0.002)
    await kill(server, victim)


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
            await check_documents(client, DOCUMENTS)
        await check_money(server)
        await check_store(server)


@pytest.mark.parametrize(
    "victims", [("chroma", "server", "chroma", "postgres", "chroma"), ("postgres", "chroma", "server", "chroma", "chroma")]
)
async def test_chroma_killed_during_ingest(tmp_path: Path, victims: tuple[str, ...]) -> None:
    """One is killed in each call."""
    configuration = tmp_path / "greenlang.toml"
    configuration.write_text(CHROMA, encoding="utf-8")
    with start_server(tmp_path / "data", "--config", str(configuration), environ=SHORT_HOLDS) as server:
        assert server.key is not None
        await watch_spending(server, server.key)
        starts = range(0, DOCUMENTS_IN_CHROMA, A_CALL_TO_CHROMA)
        async with aiohttp.ClientSession() as session:
            client = Client(session, server, server.key)
            await client.execute(CREATE_IN_CHROMA)
            sent = 0
            for start, victim in zip(starts, victims, strict=True):
                killing = asyncio.create_task(kill_when_embedded(server, victim))
                sent += await upsert_until_done(client, start, A_CALL_TO_CHROMA)
                await killing
            assert sent > len(starts), "no process was killed during a call"
            await until_searchable(client)
            for start in starts:
                await upsert_until_done(client, start, A_CALL_TO_CHROMA)
            await check_documents(client, DOCUMENTS_IN_CHROMA)
        await check_money(server)
        await check_store(server, "--config", str(configuration))


async def until_searchable(client: Client) -> None:
    asked = {"input": {"collection": "docs", "text": "any"}}
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            if (await client.execute(FOUND, asked))["search"] == {"__typename": "SearchHits"}:
                return
            await asyncio.sleep(0.5)


async def check_documents(client: Client, count: int) -> None:
    """Each is there once, and 20 of them are found."""
    assert (await client.execute(COUNT))["collection"] == {"documentCount": str(count)}
    for number in range(0, count, count // 20):
        words, only = document(number)["text"], {"where": {"field": "n", "value": number}}
        asked = {"input": {"collection": "docs", "text": words, "filter": only}}
        assert (await client.execute(SEARCH, asked))["search"] == {"hits": [{"id": f"d{number}"}]}


async def check_money(server: RunningServer) -> None:
    assert server.key is not None
    agents = Agents(server, server.key)
    await agents.wait_for(HELD, "heldUsd", "0", 60)
    records = await agents.records()
    check_payments(server, records)
    await check_sums(server, server.key, records)


async def check_store(server: RunningServer, *flags: str) -> None:
    """The store has what the database says."""
    data_dir = str(server.data_dir)
    command = [sys.executable, "-m", "app.cli", "vectors", "repair", "--check", "--data-dir", data_dir, *flags]
    checked = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (checked.returncode, "0 missing, 0 changed, 0 foreign" in checked.stdout) == (0, True), checked.stdout
