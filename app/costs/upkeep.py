"""What the ledger's tables need from time to time: room for the next months' records, and an end to what has expired."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import text

from app.db.sessions import Sessions

MONTHS_AHEAD = 2
DELETED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A budget's running period whose sums are not those of its rows."""

    budget: UUID
    period_start: datetime
    spent_usd: Decimal
    recorded_usd: Decimal
    held_usd: Decimal
    holding_usd: Decimal


async def tidy(sessions: Sessions) -> None:
    """Safe to run in several processes at once."""
    async with sessions.write() as session:
        for months in range(MONTHS_AHEAD + 1):
            await session.execute(_MAKE_PARTITION, {"months": months})
    deleted = DELETED_AT_ONCE
    while deleted == DELETED_AT_ONCE:
        async with sessions.write() as session:
            deleted = len((await session.execute(_DELETE_EXPIRED, {"most": DELETED_AT_ONCE})).all())


async def reconcile(sessions: Sessions) -> list[Discrepancy]:
    """What running sums and rows disagree about, in one snapshot; reads every record of the running periods."""
    async with sessions.read(primary=True) as session:
        return [Discrepancy(*row) for row in await session.execute(_DISCREPANCIES)]


_MAKE_PARTITION = text("select make_usage_partition(now() + make_interval(months => :months))")
_DELETE_EXPIRED = text(
    "delete from completions where key in (select key from completions where expires_at <= now() and status <> 'RUNNING'"
    " limit :most for update skip locked) returning 1"
)
_DISCREPANCIES = text(
    "select budget, period_start, spent_usd, recorded_usd, held_usd, holding_usd from budget_discrepancies order by 1, 2"
)
