"""A file of costs: rows a second, and the memory that it takes, which must not grow with the rows.

Run: python -m benchmarks.exports [--rows 500000]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta

import psutil
from sqlalchemy import text

from app.costs.export import CostExports, ExportFormat
from app.costs.queries import CostFilter, CostQuery
from app.costs.reports import CostReports
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.money import format_decimal
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings
from benchmarks.costs import FILL, ROLL_UP, new_key
from benchmarks.overspend import private_database

_MEGABYTE = 1024 * 1024


async def write(sessions: Sessions, format_: ExportFormat, where: CostFilter) -> None:
    exports, memory = CostExports(sessions, SystemClock(), ""), psutil.Process().memory_info
    made = await exports.create(where, format_, (), await new_key(sessions))
    ticket = await exports.ticket(made.url.rpartition("/")[2])
    before = most = memory().rss
    started, cpu, lines, size, last = time.perf_counter(), time.process_time(), 0, 0, b""
    async for piece in exports.content(ticket):
        lines += piece.count(b"\n")
        size += len(piece)
        most = max(most, memory().rss)
        last = piece
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    totals = (await CostReports(sessions).costs(CostQuery(where))).totals
    assert format_decimal(totals.cost_usd).encode() in last, "the total is not the report's"
    print(
        f"{format_.value:10} {lines} lines, {size / _MEGABYTE:.0f} MB, {lines / seconds:.0f} rows/s, "
        f"CPU {cpu / lines * 1e6:.0f} µs a row, memory grew by {(most - before) / _MEGABYTE:.0f} MB"
    )


async def run(url: str, rows: int) -> None:
    engines = build_engines(url, [], DatabaseSettings(statement_timeout=timedelta(minutes=10)))
    sessions = Sessions(engines)
    async with sessions.write() as session:
        await session.execute(text(FILL), {"rows": rows})
        await session.execute(text(ROLL_UP))
    now = datetime.now(UTC)
    for part in (0.1, 1.0):
        where = CostFilter(now - timedelta(days=31 * part), now, ("acme",))
        for format_ in ExportFormat:
            await write(sessions, format_, where)
    await engines.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    options = parser.parse_args()
    with private_database() as url:
        asyncio.run(run(url, options.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
