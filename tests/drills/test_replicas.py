"""Replicas fail in turn under reads and a running export: no read fails, and the export is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import text

from app.costs.export import CostExports, ExportFormat, Ticket
from app.costs.queries import CostFilter
from app.db.engines import build_engines
from app.db.servers import ServerRole
from app.db.sessions import Sessions
from app.domain.money import format_decimal
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings
from tests.clusters import DATABASE, SERVICE, Cluster, Node, running_cluster

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(180)]

ROWS = 6000
WHERE = CostFilter(datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), None)
INPUTS = ROWS * (ROWS + 1) // 2
TOTAL = format_decimal(INPUTS * Decimal("0.000000000001"))
"""The rows are put into the table alone, so the total of one snapshot, which comes from roll-ups, is not that of the rows."""
FAULTS = ("killed", "frozen", "restarted")
FILL = f"""
insert into usage_records (
    key, at, completion, operation, tenant, labels, key_name, provider, model, outcome, uncached_input_tokens,
    cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
    visible_output_tokens, reasoning_tokens, cost_usd, price_input_usd,
    price_output_usd, price_source, latency_ms, confirmed
)
select gen_random_uuid(), now() - number * interval '1 second', gen_random_uuid(), 'COMPLETION', 'acme', '{{}}', 'a key',
    'openai', 'gpt-4o', 'SUCCEEDED', number, 0, 0, 0, 7, 0, number * 0.000000000001, 2.5, 10, 'a list', 50, true
from generate_series(1, {ROWS}) number
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
async def sessions(cluster: Cluster) -> AsyncIterator[Sessions]:
    async with cluster.primary.connected(SERVICE, DATABASE) as connection:
        await connection.execute(FILL)
    await cluster.caught_up()
    engines = build_engines(cluster.url(), [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


def ticket() -> Ticket:
    return Ticket(WHERE, ExportFormat.CSV, (), datetime.now(UTC) + timedelta(hours=1), UUID(int=1))


async def settled(sessions: Sessions) -> None:
    """Until every replica is read again."""
    servers = sessions.engines.servers
    async with asyncio.timeout(30):
        while not servers.is_settled or any(  # noqa: ASYNC110 (the condition is another party's state)
            server.role is ServerRole.GONE for server in servers.every
        ):
            await asyncio.sleep(0.05)


def reading(sessions: Sessions, cluster: Cluster) -> Node:
    """The replica that the export reads from."""
    (port,) = (server.url.hosts[0].port for server in sessions.engines.servers.every if server.reads)
    return next(node for node in cluster.nodes if node.port == port)


async def test_an_export_goes_on_and_no_read_fails(cluster: Cluster, sessions: Sessions) -> None:
    exports, reads = CostExports(sessions, SystemClock(), ""), 0
    assert sessions.engines.watch is not None
    await sessions.engines.watch.first_answers()
    whole = b"".join([piece async for piece in exports.content(ticket())])
    assert whole.count(b"\n") == ROWS + 2

    async def read() -> None:
        nonlocal reads
        while True:
            async with sessions.read() as session:
                await session.execute(text("select count(*) from usage_records"))
            reads += 1

    for fault in FAULTS:
        await settled(sessions)
        pieces, stack = exports.content(ticket()), ExitStack()
        begun = [await anext(pieces), await anext(pieces), await anext(pieces)]
        victim = reading(sessions, cluster)
        readers = [asyncio.create_task(read()) for _ in range(2)]
        before = reads
        if fault == "killed":
            await asyncio.to_thread(victim.kill)
        elif fault == "frozen":
            stack.enter_context(victim.frozen())
        else:
            await asyncio.to_thread(victim.stop)
            await asyncio.to_thread(victim.start)
        *records, total = b"".join(begun + [piece async for piece in pieces]).splitlines()
        assert records == whole.splitlines()[:-1], fault
        assert b",".join((TOTAL.encode(), b"0", str(ROWS).encode(), b"0,0", str(INPUTS).encode())) in total, fault
        assert reads > before
        stack.close()
        for reader in readers:
            reader.cancel()
        failed = [error for error in await asyncio.gather(*readers, return_exceptions=True) if isinstance(error, Exception)]
        assert failed == [], fault
        if victim.process is None:
            await asyncio.to_thread(victim.start)
