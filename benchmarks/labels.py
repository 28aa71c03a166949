"""Cost by label over 30 days, from label roll-ups and from records, in one interleaved run.

The records are made in SQL: 10 agents, 8 models, and on nine calls of ten a team (20) and a stage (3).
The label roll-ups are filled by the function that serves production. Run: python -m benchmarks.labels [--rows 5000000]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from app.costs.label_rollups import read_segments
from app.costs.periods import Segment
from app.costs.queries import CostDimension, CostFilter, CostQuery
from app.costs.report_statements import costs_statement
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.paging import PageRequest
from app.domain.usage import Label
from app.settings import DatabaseSettings
from benchmarks.costs import ROLL_UP
from benchmarks.overspend import private_database

DAYS = 30
REPEATS = 7
MAX_RATIO, STRETCH = 1 / 10, 1 / 30

FILL = """
    insert into usage_records (key, at, operation, tenant, agent, labels, key_name, provider, model, outcome,
        uncached_input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, visible_output_tokens,
        reasoning_tokens, cost_usd, latency_ms, confirmed)
    select gen_random_uuid(), cast(:end as timestamptz) - make_interval(secs => n * 2592000.0 / :rows), 'COMPLETION', 'acme',
        'agent' || h % 10,
        case when n % 10 = 0 then '{}'
            else jsonb_build_object('team', 'team' || (h / 100) % 20, 'stage', 'stage' || (h / 10000) % 3) end,
        'key', 'openai', 'model' || (h / 10) % 8, 'SUCCEEDED', 500, 0, 0, 0, 100, 0, (n % 1000) * 0.000001, 100, true
    from generate_series(1, :rows) n cross join lateral (select abs(hashint4(n)) as h) hashed
"""


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """Medians in milliseconds, round trips included."""

    name: str
    rolled_ms: float
    raw_ms: float

    @property
    def ratio(self) -> float:
        return self.rolled_ms / self.raw_ms


async def measure_labels(sessions: Sessions, rows: int) -> list[LabelFigures]:
    """Fills an empty database and measures. The first figure is the one that is judged. Raises RuntimeError if a report from
    roll-ups differs from that from records."""
    end = datetime.now(UTC)
    await _fill(sessions, rows, end)
    where = CostFilter(end - timedelta(days=DAYS), end, ("acme",))
    label, page = CostDimension.LABEL, PageRequest(100)
    team = CostFilter(where.start, end, ("acme",), labels=(Label("team", "team3"),))
    delhi = CostFilter(where.start, end, ("acme",), "Asia/Kolkata")
    return [
        await _measure(sessions, "cost by team", CostQuery(where, (label,), "team", page=page)),
        await _measure(sessions, "cost by team and model", CostQuery(where, (label, CostDimension.MODEL), "team", page=page)),
        await _measure(sessions, "cost of one team by day", CostQuery(team, (CostDimension.DAY,), page=page)),
        await _measure(
            sessions, "cost by team and day in Kolkata", CostQuery(delhi, (label, CostDimension.DAY), "team", page=page)
        ),
    ]


async def _fill(sessions: Sessions, rows: int, end: datetime) -> None:
    async with sessions.write() as session:
        await session.execute(text("set local statement_timeout = 0"))
        await session.execute(text("truncate usage_records, usage_rollups, label_rollups, label_rollups_stale"))
        await session.execute(text(FILL), {"rows": rows, "end": end})
        await session.execute(text(ROLL_UP))
    quarter = timedelta(minutes=15)
    last = end - (end - datetime(2000, 1, 1, tzinfo=UTC)) % quarter - quarter
    started = time.perf_counter()
    first = last - timedelta(days=DAYS + 1)
    while first < last:
        async with sessions.write() as session:
            values = {"first": first, "until": min(last, first + timedelta(hours=6))}
            await session.execute(text("select fill_label_rollups(:first, :until, null)"), values)
        first += timedelta(hours=6)
    print(f"{rows} records with labels are counted in {time.perf_counter() - started:.0f} s")
    async with sessions.write() as session:
        done = "update label_rollups_filled set filled_from = '-infinity', filled_until = :last, marked_until = :last"
        await session.execute(text(done), {"last": last})
    async with sessions.engines.primary.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("vacuum analyze"))


async def _measure(sessions: Sessions, name: str, query: CostQuery) -> LabelFigures:
    rolled, raw = list[float](), list[float]()
    for _ in range(REPEATS):
        rolled_ms, of_rollups = await _read(sessions, query, None)
        raw_ms, of_records = await _read(sessions, query, [Segment(None, query.filter.start, query.filter.end)])
        if of_rollups != of_records:
            raise RuntimeError(f"{name}: the roll-ups do not say what the records say")
        rolled.append(rolled_ms)
        raw.append(raw_ms)
    return LabelFigures(name, statistics.median(rolled), statistics.median(raw))


async def _read(sessions: Sessions, query: CostQuery, segments: list[Segment] | None) -> tuple[float, list[object]]:
    async with sessions.read() as session:
        started = time.perf_counter()
        read = await read_segments(session, query) if segments is None else segments
        rows = (await session.execute(costs_statement(query, read, None))).all()
        elapsed = time.perf_counter() - started
    return elapsed * 1000, [tuple(row)[1:] for row in rows]


async def run(url: str, rows: int) -> list[LabelFigures]:
    """Measures in the empty, migrated database at `url`."""
    engines = build_engines(url, [], DatabaseSettings(statement_timeout=timedelta(minutes=10)))
    figures = await measure_labels(Sessions(engines), rows)
    await engines.close()
    return figures


def report(figures: list[LabelFigures], rows: int) -> bool:
    """Prints the figures. Returns False if the first one is above its limit."""
    for each in figures:
        times = f"{each.rolled_ms:.1f} ms, from records {each.raw_ms:.0f} ms, 1/{1 / each.ratio:.0f}"
        print(f"{each.name}, {DAYS} days, {rows} records: {times}")
    print(f"cost by label: 1/{1 / figures[0].ratio:.0f}; must be 1/{1 / MAX_RATIO:.0f} or less, stretch 1/{1 / STRETCH:.0f}")
    return figures[0].ratio <= MAX_RATIO


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    options = parser.parse_args()
    with private_database() as url:
        figures = asyncio.run(run(url, options.rows))
    return 0 if report(figures, options.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
