"""Roll-ups of each label, which are filled in the background, and what a report may read of them.

Invariant: a report with labels gives the same figures as the usage records of its snapshot. It reads roll-ups for the span that
is filled, and records for what is newer or older and for stale quarters. A settlement marks a quarter as stale in its own
transaction, so no snapshot has a record that neither the roll-ups nor a mark show.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import TextClause, text

from app.costs.periods import QUARTER, Segment, cover_except
from app.costs.queries import CostQuery
from app.costs.report_statements import grains_of, segments_of
from app.db.sessions import ReadSession, Sessions
from app.runtime.clock import Clock

FILL_EVERY: Final = timedelta(minutes=5)
MAX_SECONDS: Final = 60.0
"""How long one run may go on filling. A database with a long history is filled by many runs."""
REFRESHED_AT_ONCE: Final = 20
MAX_GAPS: Final = 16
"""The number of stale spans that a report leaves out one by one. If there are more, it reads all records between them."""
MAX_LATE: Final = timedelta(minutes=5)
"""Most calls are settled before this time after their admission. Those that are later make their quarter stale."""


class LabelRollups:
    def __init__(self, sessions: Sessions, clock: Clock, *, max_late: timedelta = MAX_LATE) -> None:
        """Quarters are counted when they ended at least `max_late` ago."""
        self._sessions = sessions
        self._clock = clock
        self._max_late = max_late

    async def fill(self) -> None:
        """Counts stale quarters again, then fills forward to the present and back to the oldest record, one quarter per
        transaction. Raises StoreUnavailable."""
        until = self._clock.monotonic() + MAX_SECONDS
        await self._move_marks()
        for step in (_REFRESH, _EXTEND):
            while self._clock.monotonic() < until and await self._step(step):
                pass

    async def _move_marks(self) -> None:
        """Every transaction that settles without marks has ended when the exclusive lock is granted. Admissions and settlements
        wait for that lock, so the wait for it is limited."""
        async with self._sessions.read(primary=True) as session:
            if (await session.execute(_IS_MARKED, {"late": self._max_late})).scalar_one():
                return
        async with self._sessions.write() as session:
            await session.execute(_LIMIT_WAIT)
            await session.execute(_LOCK_LEDGER)
            await session.execute(_MARK, {"late": self._max_late})

    async def _step(self, statement: TextClause) -> bool:
        async with self._sessions.write() as session:
            return bool((await session.execute(statement, {"most": REFRESHED_AT_ONCE})).scalar_one())


async def read_segments(session: ReadSession, query: CostQuery) -> list[Segment]:
    """Returns what the report has to read. If it has labels, the session becomes one snapshot, and this must be its first
    statement unless it is one already. A report with labels of several keys reads records, because a roll-up has one label."""
    if not query.label_keys:
        return segments_of(query)
    where = query.filter
    grains = grains_of(query)
    if len(query.label_keys) > 1 or not grains:
        return [Segment(None, where.start, where.end)]
    await session.execute(_ONE_SNAPSHOT)
    filled = (
        await session.execute(
            _FILLED, {"start": where.start, "end": where.end, "tenants": None if where.tenants is None else list(where.tenants)}
        )
    ).one()
    gaps = [(where.start, filled.filled_from), *_spans(filled.stale), (filled.filled_until, where.end)]
    return cover_except(where.start, where.end, grains, [(first, last) for first, last in gaps if first < last])


def _spans(buckets: Sequence[datetime]) -> list[tuple[datetime, datetime]]:
    """Joins quarters that follow each other."""
    quarter, spans = timedelta(minutes=QUARTER), list[tuple[datetime, datetime]]()
    for bucket in buckets:
        if spans and spans[-1][1] == bucket:
            spans[-1] = (spans[-1][0], bucket + quarter)
        else:
            spans.append((bucket, bucket + quarter))
    return spans if len(spans) <= MAX_GAPS else [(spans[0][0], spans[-1][1])]


_IS_MARKED = text(
    "select /* label_rollups.is_marked */ marked_until >="
    " date_bin('15 minutes', clock_timestamp() - cast(:late as interval), timestamptz '2000-01-01 00:00:00Z')"
    " from label_rollups_filled"
)
_LIMIT_WAIT = text("set local lock_timeout = '1s'")
_LOCK_LEDGER = text("select /* label_rollups.lock_ledger */ pg_advisory_xact_lock(ledger_lock())")
_MARK = text(
    "update /* label_rollups.mark */ label_rollups_filled set marked_until = greatest(marked_until,"
    " date_bin('15 minutes', clock_timestamp() - cast(:late as interval), timestamptz '2000-01-01 00:00:00Z'))"
)
_REFRESH = text("select /* label_rollups.refresh */ refresh_label_rollups(:most)")
_EXTEND = text("select /* label_rollups.extend */ extend_label_rollups()")
_ONE_SNAPSHOT = text("set transaction isolation level repeatable read, read only")
_FILLED = text(
    "select /* label_rollups.filled */ least(greatest(filled_from, :start), :end) as filled_from,"
    " greatest(least(filled_until, :end), :start) as filled_until,"
    " array(select distinct bucket from label_rollups_stale where bucket > cast(:start as timestamptz) - interval '15 minutes'"
    " and bucket < :end and (cast(:tenants as text[]) is null or tenant = any(:tenants)) order by bucket) as stale"
    " from label_rollups_filled"
)
