"""What probes say while a store stands still, what many of them cost, and that a stop needs no store."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from app.health.checks import READY_CACHED_SECONDS
from tests.drills.test_stores_gone import ask, frozen_postgres
from tests.integration.test_accounting import COMPLETE
from tests.processes import family, frozen, named
from tests.servers import RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(120)]

NO_PROVIDER_ANSWERS = """
[[providers]]
name = "away"
kind = "openai-compatible"
base_url = "http://127.0.0.1:9/v1"
models = ["one"]
[providers.breaker]
failures = 1
[providers.retry]
attempts = 1

[[routes]]
name = "default"
targets = ["away/one"]
"""
AT_ONCE, PROBES = 200, 10_000
GRACE_SECONDS, MARGIN_SECONDS = 2, 8
RUNS = re.compile(r'greenlang_database_statement_seconds_count\{statement="health.postgresql"\} (\S+)')


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("probes")
    config = folder / "greenlang.toml"
    config.write_text(f'[server]\nshutdown_grace = "{GRACE_SECONDS}s"\n', encoding="utf-8")
    with start_server(folder / "data", "--config", str(config)) as server:
        yield server


async def status(session: aiohttp.ClientSession, server: RunningServer, path: str) -> int:
    async with session.get(f"{server.address}{path}") as response:
        return response.status


async def runs(session: aiohttp.ClientSession, server: RunningServer) -> float:
    headers = {"Authorization": f"Bearer {server.key}"}
    async with session.get(f"{server.address}/metrics", headers=headers) as response:
        found = RUNS.search(await response.text())
    return 0.0 if found is None else float(found[1])


async def test_ten_thousand_at_once_run_the_checks_once(server: RunningServer) -> None:
    probes = iter(range(PROBES))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:
        before, begun = await runs(session, server), time.monotonic()

        async def probe() -> None:
            for number in probes:
                method, body = (("GET", None), ("HEAD", None), ("GET", b"a body"))[number % 3]
                async with session.request(method, f"{server.address}/ready", data=body) as response:
                    assert response.status == 200
                    assert (await response.read() == b"") is (method == "HEAD")

        await asyncio.gather(*(probe() for _ in range(AT_ONCE)))
        took = time.monotonic() - begun
        assert 1 <= await runs(session, server) - before <= 1 + took / READY_CACHED_SECONDS


async def test_a_redis_that_stands_still_leaves_it_ready_and_degraded(server: RunningServer) -> None:
    redis = named(family(server.process.pid), "valkey")
    assert redis
    async with aiohttp.ClientSession() as session:
        with frozen(redis):
            await asyncio.sleep(READY_CACHED_SECONDS)
            async with session.get(f"{server.address}/ready") as response:
                answer = await response.json()
                assert (response.status, answer["status"]) == (200, "degraded")
                assert not answer["checks"]["redis"]["ok"]


@pytest.mark.long
async def test_with_all_providers_down_it_is_ready_and_degraded(tmp_path: Path) -> None:
    config = tmp_path / "greenlang.toml"
    config.write_text(NO_PROVIDER_ANSWERS, encoding="utf-8")
    with start_server(tmp_path / "data", "--config", str(config)) as server:
        assert server.key is not None
        call: dict[str, object] = {"query": COMPLETE, "variables": {"input": {"messages": [{"role": "USER", "text": "Hello"}]}}}
        async with aiohttp.ClientSession() as session:
            failed = await ask(session, server, server.key, call)
            assert cast("dict[str, dict[str, object]]", failed["data"])["completionCreate"]["code"] == "PROVIDER_ERROR"
            await asyncio.sleep(READY_CACHED_SECONDS)
            async with session.get(f"{server.address}/ready") as response:
                answer = await response.json()
    assert (response.status, answer["status"]) == (200, "degraded")
    assert [name for name, check in answer["checks"].items() if not check["ok"]] == ["provider_away"]


async def test_a_postgresql_that_stands_still_makes_it_not_ready_within_a_second_and_a_stop_ends_in_time(
    server: RunningServer,
) -> None:
    async with aiohttp.ClientSession() as session:
        with frozen_postgres(server):
            await asyncio.sleep(READY_CACHED_SECONDS)
            begun = time.monotonic()
            assert await status(session, server, "/ready") == 503
            assert time.monotonic() - begun < 1
            assert await status(session, server, "/healthz") == 200
            server.process.terminate()
            servers = server.servers
            async with asyncio.timeout(GRACE_SECONDS + MARGIN_SECONDS):
                while any(each.is_running() for each in servers):  # noqa: ASYNC110 (the condition is another party's state)
                    await asyncio.sleep(0.1)
    assert server.process.wait(30) == 0
