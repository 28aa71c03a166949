"""A stop ends in time also before anything is served: while PostgreSQL is away, stands still, or is being migrated."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.clusters import DATABASE, PASSWORD, SERVICE, Cluster, running_cluster
from tests.processes import family, kill_all, wait_gone, wait_until
from tests.servers import ROOT, start_server

pytestmark = [pytest.mark.drill, pytest.mark.long, pytest.mark.timeout(180)]

GRACE_SECONDS, MARGIN_SECONDS = 2, 5
AT_REST_SECONDS = 0.7
MIGRATION_LOCK = 0x677265656E
MIGRATING = "select count(*) from pg_stat_activity where application_name = 'greenlang migrate' and query ilike 'create %'"
COUNT_TABLES = "select count(*) from pg_tables where schemaname = 'public'"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster(1) as cluster:
        yield cluster


@contextmanager
def starting(url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    environ |= {"GREENLANG_DATABASE__PRIMARY": url, "GREENLANG_SERVER__SHUTDOWN_GRACE": f"{GRACE_SECONDS}s"}
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--data-dir", str(folder / "data")],
            cwd=ROOT,
            env=environ,
            stdout=said,
            stderr=said,
        )
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            kill_all(family(process.pid))
        process.wait()


def stop(process: subprocess.Popen[bytes]) -> int:
    """Returns the exit status. Fails if it takes longer than grace and margin, or if a process is left."""
    everything = family(process.pid)
    process.send_signal(signal.SIGTERM)
    status = process.wait(GRACE_SECONDS + MARGIN_SECONDS)
    wait_gone(everything, 2)
    return status


def waits(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has started its children, and then uses no time of a processor: it waits for the database."""
    parent = psutil.Process(process.pid)
    if len(parent.children()) < 2:
        return False
    before = parent.cpu_times().user
    time.sleep(AT_REST_SECONDS)
    return parent.cpu_times().user == before


def await_value(cluster: Cluster, database: str, query: str, holds: Callable[[int], bool]) -> None:
    async def ask() -> None:
        async with asyncio.timeout(30), cluster.primary.connected(database=database) as connection:
            while not holds(await connection.fetchval(query)):  # noqa: ASYNC110 (the condition is another party's state)
                await asyncio.sleep(0.002)

    asyncio.run(ask())


def test_while_no_server_answers(tmp_path: Path) -> None:
    with starting(f"postgresql://{SERVICE}:{PASSWORD}@127.0.0.1:9/greenlang", tmp_path) as process:
        wait_until(lambda: "GreenLang serves on" in (tmp_path / "said").read_text())
        assert stop(process) == 0


def test_while_the_server_stands_still(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.primary.frozen(), starting(cluster.primary.url(), tmp_path) as process:
        wait_until(lambda: waits(process))
        assert stop(process) == 0
    assert "stopped while it started" in (tmp_path / "said").read_text()


@pytest.mark.anyio
async def test_while_it_waits_for_the_migration_of_another_process(cluster: Cluster, tmp_path: Path) -> None:
    async with cluster.primary.connected(database=DATABASE) as other:
        await other.execute(f"select pg_advisory_lock({MIGRATION_LOCK})")
        with starting(cluster.primary.url(), tmp_path) as process:
            await asyncio.to_thread(wait_until, lambda: waits(process))
            assert await asyncio.to_thread(stop, process) == 0
    assert "stopped while it started" in (tmp_path / "said").read_text()


def test_while_it_migrates_leaves_nothing_half_done(cluster: Cluster, tmp_path: Path) -> None:
    asyncio.run(cluster.primary.execute(f"create database stopped owner {SERVICE}"))
    url = cluster.primary.url(database="stopped")
    with starting(url, tmp_path) as process:
        await_value(cluster, "stopped", MIGRATING, bool)
        assert stop(process) == 0
    await_value(cluster, "stopped", COUNT_TABLES, lambda tables: tables == 0)
    with start_server(tmp_path / "data", environ={"GREENLANG_DATABASE__PRIMARY": url}) as server:
        assert server.key is not None
