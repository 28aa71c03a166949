"""What the metrics show of several servers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.db.engines import build_engines
from app.db.metrics import DatabaseMetrics
from app.settings import DatabaseSettings
from tests.clusters import Cluster, running_cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.mark.anyio
@pytest.mark.timeout(120)
async def test_each_server_has_a_role_and_its_lag(cluster: Cluster) -> None:
    engines = build_engines(cluster.url(), [], DatabaseSettings())
    registry = CollectorRegistry()
    registry.register(DatabaseMetrics(engines))
    assert engines.watch is not None
    await engines.watch.first_answers()
    deadline = time.monotonic() + 20
    while not engines.servers.is_settled:
        assert time.monotonic() < deadline
        await engines.watch.change(0.1)
    shown = generate_latest(registry).decode()
    await engines.close()
    assert shown.count('role="primary",') == 1
    assert shown.count('role="replica",') == 2
    for name in ("lag_seconds", "lag_bytes"):
        assert shown.count(f"\ngreenlang_database_{name}{{server=") == 3
    assert "greenlang_database_failovers_total 0.0" in shown
