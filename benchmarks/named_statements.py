"""How long each named statement takes through the service, beside asyncpg alone with the same statement and the same values.

Statements are taken from a load of calls, dashboards, lists and forecasts. Then each is run again both ways in turn, and all its
rows are fetched. Statements of the ledger are idempotent; run again, they find what is stored.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import asyncpg
from asyncpg.connection import LoggedQuery
from sqlalchemy import Connection, Executable, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection

from app.costs.alerts import AlertStore, BudgetAlertFilter
from app.costs.budgets import BudgetFilter, BudgetStore
from app.costs.forecast import Forecasts
from app.costs.queries import CostDimension, CostFilter, CostQuery
from app.costs.reports import CostReports
from app.costs.statements import Statements
from app.db.engines import Engines
from app.db.read_sessions import ReadSession
from app.db.sessions import Sessions
from app.db.statement_times import BUCKETS, Durations, statement_name
from app.domain.paging import PageRequest
from app.runtime.clock import SystemClock
from benchmarks.costs import FILL, ROLL_UP

ROWS = 100_000
ROUNDS, REPEATS = 5, 8
LOADS = 20
SHORT_SECONDS = 0.002
GOAL_MS = 50
MUST = 1.3


@dataclass(frozen=True)
class Seen:
    """A statement as the driver got it. `asked` and `values` are what SQLAlchemy got; None if it went to the driver directly."""

    statement: str
    arguments: tuple[object, ...]
    asked: Executable | None = None
    values: Any = None  # parameters of any statement


@dataclass
class Both:
    """Seconds of each run."""

    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.bare)


async def fill(sessions: Sessions) -> None:
    async with sessions.write() as session:
        await session.execute(text("set local statement_timeout = 0"))
        await session.execute(text("truncate usage_records, usage_rollups"))
        await session.execute(text(FILL), {"rows": ROWS})
        await session.execute(text(ROLL_UP))
        await session.execute(text("analyze"))


@contextmanager
def watching(engines: Engines, seen: dict[str, Seen]) -> Iterator[None]:
    """Keeps the last of each name. It is for new connections, so open none before."""
    engine, asked = engines.primary.sync_engine, dict[int, tuple[Executable, Any]]()

    def connect(connection: DBAPIConnection, _record: object) -> None:
        driver: asyncpg.Connection[asyncpg.Record] = connection.driver_connection
        driver.add_query_logger(log)

    def log(query: LoggedQuery) -> None:
        name = statement_name(query.query)
        if "/*" in query.query and name not in seen:
            seen[name] = Seen(query.query, tuple(query.args))

    def begin(connection: Connection, element: Executable, several: Any, one: Any, _options: object) -> None:
        asked[id(connection)] = element, several or one

    def run(connection: Connection, _cursor: object, statement: str, arguments: tuple[object, ...], *_: object) -> None:
        element, values = asked.get(id(connection), (None, None))
        if "/*" in statement and element is not None:
            seen[statement_name(statement)] = Seen(statement, arguments, element, values)

    listeners: tuple[tuple[str, Callable[..., None]], ...] = (
        ("connect", connect), ("before_execute", begin), ("before_cursor_execute", run),
    )  # fmt: skip
    for name, listener in listeners:
        event.listen(engine, name, listener)
    yield
    for name, listener in listeners:
        event.remove(engine, name, listener)


async def read_everything(sessions: Sessions) -> None:
    reports, now = CostReports(sessions), datetime.now(UTC)
    where = CostFilter(now - timedelta(days=30), now, ("acme",))
    forecasts = Forecasts(sessions, reports, SystemClock())
    ahead = CostFilter(now - timedelta(days=20), now + timedelta(days=10), ("acme",))
    for _ in range(LOADS):
        await reports.costs(CostQuery(where, (CostDimension.MODEL, CostDimension.DAY)))
        page = await reports.records(where, PageRequest(50))
        await reports.record(page.edges[0].node.key, "acme")
        await forecasts.costs(ahead)
        await BudgetStore(sessions).page(BudgetFilter("acme"), PageRequest(50))
        await AlertStore(sessions).page(BudgetAlertFilter("acme"), PageRequest(50))


async def compare(sessions: Sessions, seen: Seen, bare: asyncpg.Connection[asyncpg.Record]) -> Both:
    both, statements = Both(), Statements(sessions.engines, SystemClock(), timedelta(seconds=5))

    async def ours(session: ReadSession) -> None:
        if seen.asked is None:
            await statements.fetch(seen.statement, *seen.arguments)
        else:
            (await session.execute(seen.asked, seen.values)).all()

    async def alone() -> None:
        await bare.fetch(seen.statement, *seen.arguments)

    async with sessions.read() as session:
        await timed([], lambda: ours(session))
        await timed([], alone)
        for _ in range(ROUNDS):
            await timed(both.ours, lambda: ours(session))
            await timed(both.bare, alone)
    await statements.close()
    return both


async def timed(seconds: list[float], work: Callable[[], Awaitable[None]]) -> None:
    for _ in range(REPEATS):
        begun = time.perf_counter()
        await work()
        seconds.append(time.perf_counter() - begun)


def p99(durations: Durations) -> str:
    """The bound of the metric's bucket that has it."""
    needed = sum(durations.counts) * 0.99
    for bound, count in zip(BUCKETS, accumulate(durations.counts), strict=False):
        if count >= needed:
            return f"at most {bound * 1000:.0f} ms"
    return f"more than {BUCKETS[-1]:.0f} s"


async def named_statements(sessions: Sessions, seen: dict[str, Seen], url: str) -> None:
    times = {name: p99(durations) for name, durations in sorted(sessions.engines.times.by_name.items())}
    bare = await asyncpg.connect(url)
    found: dict[str, Both] = {}
    for name, each in sorted(seen.items()):
        if each.statement.lower().startswith(("select", "with")):
            try:
                found[name] = await asyncio.wait_for(compare(sessions, each, bare), 60)
            except (asyncpg.DataError, asyncpg.InterfaceError) as error:
                print(f"  {name}: not compared ({type(error).__name__})")
    await bare.close()
    for name, both in found.items():
        middle = statistics.median(both.bare)
        judged = "shorter than 2 ms" if middle < SHORT_SECONDS else f"must {MUST}"
        print(f"  {name}: p50 {middle * 1000:.2f} ms on asyncpg alone, ratio {both.ratio:.2f} ({judged})")
    judged_ratios = [both.ratio for both in found.values() if statistics.median(both.bare) >= SHORT_SECONDS]
    print(
        f"named statements of 2 ms or more: {len(judged_ratios)}, worst ratio {max(judged_ratios, default=0):.2f} (must {MUST})"
    )
    for name, bound in times.items():
        print(f"  {name}: P99 under the load {bound} (goal {GOAL_MS} ms)")
