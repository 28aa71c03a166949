"""The ledger's speed: writing rows as `benchmarks.ledger` does, reading costs by model by day from roll-ups and from records, and
exporting records.

Run: python -m benchmarks.costs [--rows 5000000] [--writes 20000]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import text

from app.access.key_rows import NewKey
from app.access.keys import KeyStore
from app.access.principal import Scope
from app.costs.export import CostExports, ExportFormat
from app.costs.periods import Segment
from app.costs.queries import CostDimension, CostFilter, CostQuery
from app.costs.report_statements import costs_statement, segments_of
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.paging import PageRequest
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings
from benchmarks.ledger import measure
from benchmarks.overspend import private_database

ROUNDS = 3
REPEATS = 21
DAYS = 30
EXPORTED_DAYS = 3

FILL = """
    insert into usage_records (key, at, operation, tenant, agent, labels, key_name, provider, model, outcome,
        uncached_input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, visible_output_tokens,
        reasoning_tokens, cost_usd, latency_ms, confirmed)
    select gen_random_uuid(), now() - make_interval(secs => (n * 2592000.0 / :rows)), 'COMPLETION', 'acme', 'agent' || n % 10,
        '{}', 'key', 'openai', 'model' || n % 8, 'SUCCEEDED', 500, 0, 0, 0, 100, 0, (n % 1000) * 0.000001, 100, true
    from generate_series(1, :rows) n
"""
ROLL_UP = """
    insert into usage_rollups
    select g.grain, w.tenant, g.bucket, w.provider, w.model, coalesce(w.agent, ''), w.operation, count(*), 0, 0, 0,
        sum(uncached_input_tokens), sum(visible_output_tokens), 0, 0, sum(cost_usd), 0, 0
    from usage_records w cross join lateral usage_buckets(w.at) g group by 1, 2, 3, 4, 5, 6, 7
"""


async def read_costs(sessions: Sessions, rows: int) -> None:
    async with sessions.write() as session:
        await session.execute(text("set local statement_timeout = 0"))
        await session.execute(text("truncate usage_records, usage_rollups"))
        await session.execute(text(FILL), {"rows": rows})
        await session.execute(text(ROLL_UP))
    async with sessions.engines.primary.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("vacuum analyze"))
    end = datetime.now(UTC)
    query = CostQuery(
        CostFilter(end - timedelta(days=DAYS), end, ("acme",)), (CostDimension.MODEL, CostDimension.DAY), page=PageRequest(100)
    )
    rolled = await p50(sessions, query, segments_of(query))
    raw = await p50(sessions, query, [Segment(None, query.filter.start, query.filter.end)])
    print(f"cost by model by day, {DAYS} days of one tenant, {rows} rows:")
    print(f"p50 {rolled:.1f} ms from roll-ups, {raw:.1f} ms from records, ratio 1/{raw / rolled:.0f}, round trips included")
    print(f"in the database: {await in_database(sessions, query):.1f} ms from roll-ups")


async def p50(sessions: Sessions, query: CostQuery, segments: list[Segment]) -> float:
    """Milliseconds, round trip included."""
    times = []
    for _ in range(REPEATS):
        async with sessions.read() as session:
            started = time.perf_counter()
            await session.execute(costs_statement(query, segments, None))
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


async def in_database(sessions: Sessions, query: CostQuery) -> float:
    """Milliseconds of planning and executing, the median of several."""
    statement = costs_statement(query, segments_of(query), None)
    compiled = statement.compile(sessions.engines.primary.sync_engine, compile_kwargs={"literal_binds": True})
    times: list[float] = []
    async with sessions.statements() as session:
        for _ in range(REPEATS):
            plan = (await session.exec_driver_sql(f"explain (analyze, timing off, format json) {compiled}")).scalar_one()
            times.append(plan[0]["Planning Time"] + plan[0]["Execution Time"])
    return statistics.median(times)


async def new_key(sessions: Sessions) -> UUID:
    new = NewKey(str(uuid4()), "default", frozenset({Scope.COSTS}))
    return (await KeyStore(sessions, SystemClock()).create(new)).key.key


async def export(sessions: Sessions) -> None:
    exports, now = CostExports(sessions, SystemClock(), ""), datetime.now(UTC)
    where, key = CostFilter(now - timedelta(days=EXPORTED_DAYS), now, ("acme",)), await new_key(sessions)
    link = await exports.create(where, ExportFormat.CSV, (), key)
    ticket = await exports.ticket(link.url.rpartition("/")[2])
    before, started = rss_mb(), time.perf_counter()
    most, size, lines = before, 0, 0
    async for piece in exports.content(ticket):
        size += len(piece)
        lines += piece.count(b"\n")
        most = max(most, rss_mb())
    seconds = time.perf_counter() - started
    print(f"export: {lines} lines as CSV, {lines / seconds:.0f} lines/s, {size / seconds / 1e6:.1f} MB/s")
    print(f"resident memory of the exporting process: {before:.0f} MB before, {most:.0f} MB at most")


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 1e6


async def run(url: str, rows: int, writes: int) -> None:
    engines = build_engines(url, [], DatabaseSettings(statement_timeout=timedelta(minutes=10)))
    sessions = Sessions(engines)
    await measure(sessions, writes, ROUNDS)
    await read_costs(sessions, rows)
    await export(sessions)
    await engines.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--writes", type=int, default=20_000)
    options = parser.parse_args()
    with private_database() as url:
        asyncio.run(run(url, options.rows, options.writes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
