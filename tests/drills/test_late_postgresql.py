"""A server that starts before its PostgreSQL: it listens, says that it is not ready, and serves by itself when one answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from app.access.credentials import new_secret
from app.supervisor.first_key import FILE_NAME
from tests.clusters import PASSWORD, SERVICE, Cluster, running_cluster
from tests.servers import Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(120)]

DATABASE = "late"
READY_SECONDS = 40
COMPLETE = "mutation Go($input: CompletionInput!) { completionCreate(input: $input) { ... on Completion { status } } }"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Its primary has an empty database, and is down."""
    with running_cluster(1) as cluster:
        asyncio.run(cluster.primary.execute(f"create database {DATABASE} owner {SERVICE}"))
        cluster.primary.stop()
        yield cluster


@pytest.mark.parametrize("further_hosts", ["", ",127.0.0.1:9"])
@pytest.mark.long
async def test_it_serves_as_soon_as_a_server_answers(cluster: Cluster, tmp_path: Path, further_hosts: str) -> None:
    url = f"postgresql://{SERVICE}:{PASSWORD}@{cluster.primary.address}{further_hosts}/{DATABASE}"
    config = tmp_path / "greenlang.toml"
    config.write_text('[database]\nprimary = { env = "LATE_DATABASE" }\n', encoding="utf-8")
    arguments = ("--config", str(config), "--workers", "2")
    log = tmp_path / "log"
    with start_server(tmp_path / "data", *arguments, environ={"LATE_DATABASE": url}, log=log) as server:
        async with aiohttp.ClientSession() as session:
            assert server.key is None
            assert await status(session, server, "/healthz") == 200
            assert await status(session, server, "/ready") == 503
            assert await refusal(session, server) == "STORE_UNAVAILABLE"
            await asyncio.to_thread(cluster.primary.start)
            async with asyncio.timeout(READY_SECONDS):
                while await status(session, server, "/ready") != 200:  # noqa: ASYNC110 (the condition is another party's state)
                    await asyncio.sleep(0.1)
                while not (tmp_path / "data" / FILE_NAME).exists():  # noqa: ASYNC110 (the condition is another party's state)
                    await asyncio.sleep(0.1)
            client = Client(session, server, (tmp_path / "data" / FILE_NAME).read_text(encoding="ascii").strip())
            made = await client.execute(COMPLETE, {"input": {"messages": [{"role": "USER", "text": "Hello"}]}})
    assert made == {"completionCreate": {"status": "FINISHED"}}
    assert PASSWORD not in log.read_text(encoding="utf-8")


async def status(session: aiohttp.ClientSession, server: RunningServer, path: str) -> int:
    async with session.get(f"{server.address}{path}") as response:
        return response.status


async def refusal(session: aiohttp.ClientSession, server: RunningServer) -> str:
    _, key = new_secret()
    headers = {"Authorization": f"Bearer {key}"}
    async with session.post(server.url, json={"query": "{ __typename }"}, headers=headers) as response:
        answer = await response.json()
    code: str = answer["errors"][0]["extensions"]["code"]
    return code
