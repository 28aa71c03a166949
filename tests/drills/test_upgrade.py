"""The version before goes on serving while its database is migrated to this one: no call fails, and every call is in the ledger.

The version before is taken from the repository's history, so a copy without history skips this.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from app.db.schema_revision import newest_revision
from tests.clusters import PASSWORD, SERVICE, Cluster, running_cluster
from tests.integration.test_accounting import complete_many
from tests.servers import ROOT, Client, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.long, pytest.mark.timeout(180)]

BEFORE, CALLS_AT_ONCE, FURTHER_ROUNDS = "before", 50, 5
REVISION = "select version_num from alembic_version"


@pytest.fixture
def earlier_version(tmp_path: Path) -> Path:
    """The source as it was before the newest migration was added."""
    newest = next((ROOT / "migrations" / "versions").glob(f"{newest_revision()}_*.py"))
    added = git("log", "--diff-filter=A", "--format=%H", "--", str(newest.relative_to(ROOT))).decode().split()
    if not added:
        pytest.skip("there is no history of the newest migration")
    folder = tmp_path / "earlier"
    with tarfile.open(fileobj=io.BytesIO(git("archive", f"{added[-1]}^"))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"there is no history: {done.stderr.decode().strip()}")
    return done.stdout


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster(1) as cluster:
        asyncio.run(cluster.primary.execute(f"create database {BEFORE} owner {SERVICE}"))
        yield cluster


async def test_no_call_fails_while_the_database_is_migrated(cluster: Cluster, earlier_version: Path, tmp_path: Path) -> None:
    environ = {"GREENLANG_DATABASE__PRIMARY": f"postgresql://{SERVICE}:{PASSWORD}@{cluster.primary.address}/{BEFORE}"}
    with start_server(tmp_path / "data", "--workers", "2", environ=environ, root=earlier_version) as server:
        assert server.key is not None
        async with cluster.primary.connected(database=BEFORE) as database:
            earlier: str = await database.fetchval(REVISION)
            assert earlier < newest_revision()
            headers = {"Authorization": f"Bearer {server.key}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                client = Client(session, server, server.key)
                migration = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "app.cli", "migrate", cwd=ROOT, env=os.environ | environ
                )
                calls, further = 0, 0
                while further < FURTHER_ROUNDS:
                    further += migration.returncode is not None
                    calls += len(await complete_many(client, CALLS_AT_ONCE))
            assert migration.returncode == 0
            assert await database.fetchval(REVISION) == newest_revision()
    async with cluster.primary.connected(database=BEFORE) as database:
        assert await database.fetchval("select count(*) from usage_records where outcome = 'SUCCEEDED'") == calls
