"""Maintenance of the ledger's tables: partitions for the next months, deletion of what has expired, and a check that budgets'
sums match their rows.

Each task is due by the database's clock. The one process that updates the task's row runs it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import TextClause, text

from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.runtime.clock import Clock

MONTHS_AHEAD = 2
DELETED_AT_ONCE = 1000
BUDGETS_AT_ONCE = 100
LOOK_SECONDS = 300.0
TIDY_EVERY = timedelta(hours=1)
RECONCILE_EVERY = timedelta(hours=6)

_log = logging.getLogger(__name__)

Task: TypeAlias = tuple[str, timedelta, Callable[[], Awaitable[None]]]
"""Its row in the table, how often it is due, and its work."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A running period of a budget whose sums do not match its rows."""

    budget: UUID
    period_start: datetime
    spent_usd: Decimal
    recorded_usd: Decimal
    held_usd: Decimal
    holding_usd: Decimal


class Maintenance:
    def __init__(self, sessions: Sessions, clock: Clock, content_ttl: timedelta, further: Sequence[Task] = ()) -> None:
        """`content_ttl` is how long the document of a call is kept after its end."""
        self._sessions = sessions
        self._clock = clock
        self._content_ttl = content_ttl
        self._further = further

    async def run_maintenance(self) -> None:
        """Runs the tasks that are due, until it is cancelled."""
        while True:
            await self.run_due()
            await self._clock.sleep(LOOK_SECONDS)

    async def run_due(self) -> None:
        """Runs every task that is due. A task that fails is due again at once."""
        tasks: tuple[Task, ...] = (
            ("tidy", TIDY_EVERY, self._tidy),
            ("reconcile", RECONCILE_EVERY, self._reconcile),
            *self._further,
        )
        for name, every, work in tasks:
            try:
                if not await self._claim(name, every):
                    continue
                try:
                    await work()
                except BaseException:
                    await self._make_due_again(name)
                    raise
            except StoreUnavailable:
                _log.warning("maintenance waits for PostgreSQL", extra={"task": name})
            except Exception:  # noqa: BLE001 the other tasks, and the next look, must not end with this one
                _log.exception("maintenance failed", extra={"task": name})

    async def _tidy(self) -> None:
        await tidy(self._sessions, self._content_ttl)

    async def _reconcile(self) -> None:
        async for found in reconcile(self._sessions):
            _log.error(
                "a budget's sums differ from its rows",
                extra={
                    "budget": str(found.budget),
                    "period_start": found.period_start.isoformat(),
                    "spent_usd": str(found.spent_usd),
                    "recorded_usd": str(found.recorded_usd),
                    "held_usd": str(found.held_usd),
                    "holding_usd": str(found.holding_usd),
                },
            )
            await repair_sums(self._sessions, found)

    async def _claim(self, name: str, every: timedelta) -> bool:
        async with self._sessions.write() as session:
            return (await session.execute(_CLAIM, {"task": name, "every": every})).first() is not None

    async def _make_due_again(self, name: str) -> None:
        async with self._sessions.write() as session:
            await session.execute(_MAKE_DUE_AGAIN, {"task": name})


async def tidy(sessions: Sessions, content_ttl: timedelta) -> None:
    """Safe to run in several processes at once."""
    async with sessions.write() as session:
        for months in range(MONTHS_AHEAD + 1):
            await session.execute(_MAKE_PARTITION, {"months": months})
    await _repeat(sessions, _DELETE_EXPIRED, {})
    await _repeat(sessions, _DROP_CONTENT, {"ttl": content_ttl})


async def _repeat(sessions: Sessions, statement: TextClause, values: Mapping[str, object]) -> None:
    """Deletes batch by batch, until a batch is not full."""
    changed = DELETED_AT_ONCE
    while changed == DELETED_AT_ONCE:
        async with sessions.write() as session:
            changed = len((await session.execute(statement, {**values, "most": DELETED_AT_ONCE})).all())


async def reconcile(sessions: Sessions) -> AsyncIterator[Discrepancy]:
    """Returns the differences between running sums and rows, each budget from one snapshot. Reads every record of the running
    periods, from a replica if there is one."""
    after: UUID | None = None
    while budgets := await _budgets_after(sessions, after):
        after = budgets[-1]
        async with sessions.read() as session:
            rows = (await session.execute(_DISCREPANCIES, {"budgets": budgets})).all()
        for row in rows:
            yield Discrepancy(UUID(int=row.budget.int), *row[1:])


async def repair_sums(sessions: Sessions, found: Discrepancy) -> None:
    """Counts the rows again under the period's lock. The spent amount is never lowered, because an old record can be missing."""
    async with sessions.write() as session:
        await session.execute(_REPAIR_SUMS, {"budget": found.budget, "start": found.period_start})


async def _budgets_after(sessions: Sessions, after: UUID | None) -> Sequence[UUID]:
    async with sessions.read() as session:
        rows = await session.execute(_BUDGETS, {"after": after, "most": BUDGETS_AT_ONCE})
        return [UUID(int=key.int) for (key,) in rows]


_CLAIM = text(
    "update /* maintenance.claim */"
    " maintenance set begun_at = now() where task = :task and begun_at <= now() - cast(:every as interval) returning 1"
)
_MAKE_DUE_AGAIN = text("update /* maintenance.make_due_again */ maintenance set begun_at = '-infinity' where task = :task")
_MAKE_PARTITION = text("select /* maintenance.make_partition */ make_usage_partition(now() + make_interval(months => :months))")
_DELETE_EXPIRED = text(
    "delete /* maintenance.delete_expired */"
    " from completions where key in (select key from completions where expires_at <= now() and status <> 'RUNNING'"
    " limit :most for update skip locked) returning 1"
)
_DROP_CONTENT = text(
    "update /* maintenance.drop_content */"
    " completions set document = null where key in (select key from completions where document is not null"
    " and finished_at <= now() - cast(:ttl as interval) limit :most for update skip locked) returning 1"
)
_BUDGETS = text(
    "select /* maintenance.budgets */"
    " key from budgets where deleted_at is null and (cast(:after as uuid) is null or key > :after) order by key limit :most"
)
_DISCREPANCIES = text(
    "select /* maintenance.discrepancies */"
    " budget, period_start, spent_usd, recorded_usd, held_usd, holding_usd from budget_discrepancies"
    " where budget = any(:budgets) order by 1, 2"
)
_REPAIR_SUMS = text("select /* maintenance.repair_sums */ repair_sums(:budget, :start)")
