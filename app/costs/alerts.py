"""Alerts: each threshold is raised once per budget and period, by the transaction that crosses it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, Select, select, tuple_

from app.costs.budgets import BudgetOwner
from app.db.sessions import Sessions
from app.db.statement_times import named
from app.db.tables.alerts import budget_alerts
from app.db.tables.budgets import budgets
from app.domain.ids import format_id
from app.domain.paging import Page, PageRequest, build_page, decode_time_cursor, encode_time_cursor

_CURSOR = "alerts"


@dataclass(frozen=True, slots=True)
class BudgetAlert:
    """Name, limit and spending of the budget are those at the time of the alert; the owner is the present one. `agent` is the
    agent whose spending counts."""

    key: UUID
    budget_key: UUID
    budget_name: str
    tenant: str | None
    agent: str | None
    owner: BudgetOwner
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
    """If `tenant` is None, alerts of all budgets match, also of those over all tenants together."""

    tenant: str | None
    budgets: tuple[UUID, ...] | None = None
    min_threshold: int = 0
    agent: str | None = None

    def matches(self, alert: BudgetAlert) -> bool:
        return (
            self.tenant in {None, alert.tenant}
            and self.agent in {None, alert.agent}
            and (self.budgets is None or alert.budget_key in self.budgets)
            and alert.threshold >= self.min_threshold
        )


class AlertStore:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def page(self, where: BudgetAlertFilter, request: PageRequest) -> Page[BudgetAlert]:
        """Returns the newest alerts first."""
        asked = _matching(where).order_by(budget_alerts.c.raised_at.desc(), budget_alerts.c.key.desc()).limit(request.first + 1)
        if request.after is not None:
            asked = asked.where(
                tuple_(budget_alerts.c.raised_at, budget_alerts.c.key) < tuple_(*decode_time_cursor(_CURSOR, request.after))
            )
        async with self._sessions.read() as session:
            rows = await session.execute(named("alerts.page", asked))
            found = [_alert(row) for row in rows.mappings()]
        return build_page(request, found, lambda alert: encode_time_cursor(_CURSOR, alert.raised_at, alert.key))

    async def by_key(self, key: UUID, tenant: str | None) -> BudgetAlert | None:
        found = (await self.by_keys([key])).get(key)
        return found if found is not None and tenant in {None, found.tenant} else None

    async def by_keys(self, keys: Collection[UUID]) -> dict[UUID, BudgetAlert]:
        """Returns alerts of all tenants, read from the primary."""
        async with self._sessions.read(primary=True) as session:
            rows = await session.execute(named("alerts.by_keys", _ALERTS.where(budget_alerts.c.key.in_(keys))))
            return {alert.key: alert for alert in map(_alert, rows.mappings())}


_ALERTS = select(budget_alerts, budgets.c.agent, budgets.c.owner).join(budgets, budgets.c.key == budget_alerts.c.budget)


def _matching(where: BudgetAlertFilter) -> Select[Any]:
    asked = _ALERTS.where(budget_alerts.c.threshold >= where.min_threshold)
    if where.tenant is not None:
        asked = asked.where(budget_alerts.c.tenant == where.tenant)
    if where.agent is not None:
        asked = asked.where(budgets.c.agent == where.agent)
    if where.budgets is not None:
        asked = asked.where(budget_alerts.c.budget.in_(where.budgets))
    return asked


def _alert(row: RowMapping) -> BudgetAlert:
    return BudgetAlert(
        key=UUID(int=row["key"].int),
        budget_key=UUID(int=row["budget"].int),
        budget_name=row["budget_name"],
        tenant=row["tenant"] or None,
        agent=row["agent"] or None,
        owner=BudgetOwner(row["owner"]),
        threshold=row["threshold"],
        spent_usd=row["spent_usd"],
        limit_usd=row["limit_usd"],
        period_start=row["period_start"],
        raised_at=row["raised_at"],
    )
