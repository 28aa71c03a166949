"""What the metrics show of several servers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import text

from app.db.engines import Engines, build_engines
from app.db.metrics import DatabaseMetrics
from app.db.sessions import Sessions
from app.settings import DatabaseSettings
from tests.clusters import Cluster, running_cluster

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
async def engines(cluster: Cluster) -> AsyncIterator[Engines]:
    engines = build_engines(cluster.url(), [], DatabaseSettings())
    assert engines.watch is not None
    await engines.watch.first_answers()
    deadline = time.monotonic() + 20
    while not engines.servers.is_settled:
        assert time.monotonic() < deadline
        await engines.watch.change(0.1)
    yield engines
    await engines.close()


def shown_of(engines: Engines) -> str:
    registry = CollectorRegistry()
    registry.register(DatabaseMetrics(engines))
    return generate_latest(registry).decode()


async def test_each_server_has_a_role_and_its_lag(engines: Engines) -> None:
    shown = shown_of(engines)
    assert shown.count('role="primary",') == 1
    assert shown.count('role="replica",') == 2
    for name in ("lag_seconds", "lag_bytes"):
        assert shown.count(f"\ngreenlang_database_{name}{{server=") == 3
    assert "greenlang_database_failovers_total 0.0" in shown


async def test_reads_are_counted_once_for_the_server_that_answered(cluster: Cluster, engines: Engines) -> None:
    sessions, question = Sessions(engines), text("select 1")
    async with sessions.read():
        pass
    for _ in range(4):
        async with sessions.read() as session:
            await session.execute(question)
            await session.execute(question)
            async with session.stream(question, execution_options={"yield_per": 1}) as rows:
                assert [row async for row in rows] == [(1,)]
    for _ in range(3):
        async with sessions.read(primary=True) as session:
            await session.execute(question)
    lines = [line for line in shown_of(engines).splitlines() if line.startswith("greenlang_database_reads_total")]
    expected = [("primary", cluster.primary, 3), *(("replica", node, 2) for node in cluster.replicas)]
    assert sorted(lines) == sorted(
        f'greenlang_database_reads_total{{role="{role}",server="{node.address}"}} {count}.0' for role, node, count in expected
    )
