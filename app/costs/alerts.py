"""Alerts: each threshold once per budget and period, raised by the transaction that crosses it.

Their order for subscribers is a position, given by one relay at a time and in the order of commits. A sequence drawn at the
insert would not do: a row that commits late with a lower number would be passed over for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import RowMapping, text

from app.db.sessions import Sessions
from app.errors import Refused
from app.ids import format_id
from app.paging import Page, PageRequest, build_page, decode_cursor, encode_cursor
from app.problems import InvalidInput

KEPT = timedelta(days=7)
"""How long a subscriber may be away and still be given what it missed."""
CHANNEL = "greenlang_outbox"
_CURSOR = "alerts"


@dataclass(frozen=True, slots=True)
class BudgetAlert:
    """The budget's name, limit and spending are as they were when it was raised."""

    key: UUID
    budget_key: UUID
    budget_name: str
    tenant: str | None
    threshold: int
    spent_usd: Decimal
    limit_usd: Decimal
    period_start: datetime
    raised_at: datetime

    @property
    def id(self) -> str:
        return format_id("alr", self.key)


@dataclass(frozen=True, slots=True)
class BudgetAlertFilter:
    """A tenant of None means alerts of every tenant and of all tenants together."""

    tenant: str | None
    budgets: tuple[UUID, ...] | None = None
    min_threshold: int = 0


@dataclass(frozen=True, slots=True)
class PlacedAlert:
    position: int
    alert: BudgetAlert


class AlertStore:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def page(self, where: BudgetAlertFilter, request: PageRequest) -> Page[BudgetAlert]:
        """Newest first."""
        at, key = (None, None) if request.after is None else _position(request.after)
        async with self._sessions.read() as session:
            rows = await session.execute(_PAGE, _parameters(where) | {"at": at, "key": key, "limit": request.first + 1})
            found = [_alert(row) for row in rows.mappings()]
        return build_page(request, found, lambda alert: encode_cursor(_CURSOR, alert.raised_at.isoformat(), alert.key.hex))

    async def by_key(self, key: UUID, tenant: str | None) -> BudgetAlert | None:
        async with self._sessions.read() as session:
            rows = await session.execute(_BY_KEY, {"key": key, "tenant": tenant})
            row = rows.mappings().first()
        return None if row is None else _alert(row)

    async def place(self) -> int:
        """Gives positions to what has been committed since; returns how many. Nothing where another relay is at it."""
        async with self._sessions.write() as session:
            if not (await session.execute(text("select pg_try_advisory_xact_lock(7246002)"))).scalar_one():
                return 0
            placed: int = (await session.execute(_PLACE)).scalar_one()
            return placed

    async def trim(self) -> None:
        """Forgets positions older than KEPT; the alerts themselves stay."""
        async with self._sessions.write() as session:
            await session.execute(
                text("delete from outbox where position is not null and created_at < now() - cast(:kept as interval)"),
                {"kept": KEPT},
            )

    async def after(self, position: int, where: BudgetAlertFilter, most: int = 100) -> Sequence[PlacedAlert]:
        """Those placed behind `position`, in order; reads the primary, so nothing committed is missed."""
        async with self._sessions.read(primary=True) as session:
            rows = await session.execute(_AFTER, _parameters(where) | {"position": position, "most": most})
            return [PlacedAlert(row["position"], _alert(row)) for row in rows.mappings()]

    async def span(self) -> tuple[int, int]:
        """The position before the oldest one kept, and the newest: a cursor below the first has missed something."""
        async with self._sessions.read(primary=True) as session:
            row = (await session.execute(_SPAN)).one()
            return row.oldest, row.newest


_MATCHES = (
    " (cast(:tenant as text) is null or a.tenant = :tenant) and a.threshold >= :least"
    " and (cast(:budgets as uuid[]) is null or a.budget = any(:budgets))"
)
_PAGE = text(
    "select a.* from budget_alerts a where (cast(:at as timestamptz) is null or (a.raised_at, a.key) < (:at, :key)) and"  # noqa: S608 constants
    + _MATCHES
    + " order by a.raised_at desc, a.key desc limit :limit"
)
_BY_KEY = text("select * from budget_alerts where key = :key and (cast(:tenant as text) is null or tenant = :tenant)")
_AFTER = text(
    "select a.*, o.position from outbox o join budget_alerts a on a.key = o.key where o.position > :position and"  # noqa: S608 constants
    + _MATCHES
    + " order by o.position limit :most"
)
_PLACE = text(
    "with waiting as materialized (select key from outbox where position is null order by created_at, key),"
    " numbered as materialized (select key, nextval('outbox_positions') as position from waiting),"
    " placed as (update outbox o set position = n.position from numbered n where o.key = n.key returning 1)"
    " select count(*) from placed"
)
_SPAN = text(
    "select coalesce((select min(position) - 1 from outbox), s.newest) as oldest, s.newest"
    " from (select case when is_called then last_value else 0 end as newest from outbox_positions) s"
)


def _parameters(where: BudgetAlertFilter) -> dict[str, object]:
    return {
        "tenant": where.tenant,
        "least": where.min_threshold,
        "budgets": None if where.budgets is None else list(where.budgets),
    }


def _position(cursor: str) -> tuple[datetime, UUID]:
    at, key = decode_cursor(_CURSOR, cursor, 2)
    try:
        return datetime.fromisoformat(at), UUID(hex=key)
    except ValueError as error:
        raise Refused(InvalidInput("not a cursor of this list", ("after",))) from error


def _alert(row: RowMapping) -> BudgetAlert:
    return BudgetAlert(
        key=row["key"],
        budget_key=row["budget"],
        budget_name=row["budget_name"],
        tenant=row["tenant"] or None,
        threshold=row["threshold"],
        spent_usd=row["spent_usd"],
        limit_usd=row["limit_usd"],
        period_start=row["period_start"],
        raised_at=row["raised_at"],
    )
