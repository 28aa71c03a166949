"""Running totals. They are computed once per scope for all its followers, at the shortest interval that one of them asks for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from app.costs.queries import CostFilter, CostQuery
from app.costs.reports import CostReport, CostReports, CostTotals
from app.db.wakeups import Wakeup
from app.domain.errors import Refused
from app.domain.paging import encode_cursor
from app.domain.problems import InvalidInput
from app.events.heartbeat import HEARTBEAT_SECONDS, Heartbeat
from app.runtime.clock import Clock
from app.runtime.tasks import create_shared_task

MIN_INTERVAL, MAX_INTERVAL = timedelta(milliseconds=100), timedelta(hours=1)
_CURSOR = "costUpdates"


@dataclass(frozen=True, slots=True)
class CostUpdate:
    """Totals of everything that was settled before `at`."""

    cursor: str
    at: datetime
    totals: CostTotals


CostUpdateEvent: TypeAlias = CostUpdate | Heartbeat


class CostUpdates:
    def __init__(self, reports: CostReports, clock: Clock) -> None:
        self._reports = reports
        self._clock = clock
        self._scopes: dict[CostFilter, _Scope] = {}

    def __len__(self) -> int:
        return len(self._scopes)

    async def follow(self, where: CostFilter, interval: timedelta) -> AsyncGenerator[CostUpdateEvent, None]:
        """Yields the totals now, then whenever they have changed, at most once per interval. Yields a heartbeat after 15
        seconds without a change.

        Raises Refused(InvalidInput) for an interval out of range, and StoreUnavailable.
        """
        if not MIN_INTERVAL <= interval <= MAX_INTERVAL:
            raise Refused(InvalidInput("The interval must be 100 to 3600000 milliseconds.", ("minIntervalMs",)))
        shown: CostTotals | None = None
        with self._joined(where, interval) as scope:
            while True:
                report = await scope.other_than(shown)
                if report is None:
                    now = self._clock.now()
                    yield Heartbeat(encode_cursor(_CURSOR, now.isoformat()), now)
                    continue
                shown = report.totals
                yield CostUpdate(encode_cursor(_CURSOR, report.as_of.isoformat()), report.as_of, report.totals)
                await self._clock.sleep(interval.total_seconds())

    @contextmanager
    def _joined(self, where: CostFilter, interval: timedelta) -> Iterator[_Scope]:
        """Joins a follower to the scope. When the last one leaves, the computation ends."""
        scope = self._scopes.get(where)
        if scope is None:
            scope = self._scopes[where] = _Scope(self._reports, self._clock, where)
        scope.join(interval)
        try:
            yield scope
        finally:
            if not scope.leave(interval):
                scope.end()
                if self._scopes.get(where) is scope:
                    del self._scopes[where]


class _Scope:
    def __init__(self, reports: CostReports, clock: Clock, where: CostFilter) -> None:
        self._reports = reports
        self._clock = clock
        self._query = CostQuery(where)
        self._intervals: Counter[timedelta] = Counter()
        self._sooner = Wakeup(clock)
        self._latest: CostReport | None = None
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self._task = create_shared_task(self._compute())

    def join(self, interval: timedelta) -> None:
        """If a follower's interval is shorter than all others, the totals are computed anew, so it gets nothing older than its
        interval."""
        if self._intervals and interval < min(self._intervals):
            self._latest = None
            self._sooner.set()
        self._intervals[interval] += 1

    def leave(self, interval: timedelta) -> bool:
        """Returns True if there are still followers."""
        self._intervals[interval] -= 1
        if not self._intervals[interval]:
            del self._intervals[interval]
        return bool(self._intervals)

    async def other_than(self, shown: CostTotals | None) -> CostReport | None:
        """Returns the latest report as soon as its totals differ from `shown`; None after a while without a change. Raises the
        error that stopped the computation."""
        waited = asyncio.ensure_future(self._clock.sleep(HEARTBEAT_SECONDS))
        try:
            while self._failure is None:
                if self._latest is not None and self._latest.totals != shown:
                    return self._latest
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait((waited, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if waited.done():
                    return None
        finally:
            waited.cancel()
        raise self._failure

    def end(self) -> None:
        self._task.cancel()

    async def _compute(self) -> None:
        while True:
            try:
                report = await self._reports.costs(self._query)
            except Exception as failure:  # noqa: BLE001 raised where it is waited for, by every follower
                self._failure = failure
                self._changed.set()
                return
            if self._latest is None or report.totals != self._latest.totals:
                self._latest = report
                self._changed.set()
                self._changed = asyncio.Event()
            await self._sooner.wait(min(self._intervals).total_seconds())
