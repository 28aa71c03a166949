"""Reports and forecasts that are kept: how old they get, and what drops them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.cache.invalidations import Invalidations, Selector, SelectorKind
from app.cache.reads import ReadCache
from app.costs.alert_events import BudgetAlertEvents
from app.costs.alerts import AlertStore, BudgetAlertFilter
from app.costs.budgets import BudgetScope, BudgetStore, NewBudget
from app.costs.forecast import Forecasts
from app.costs.fresh_reads import FreshReads
from app.costs.ledger import PostgresLedger
from app.costs.queries import CostDimension, CostFilter, CostQuery
from app.costs.reports import CostReports
from app.db.sessions import Sessions
from app.domain.usage import Label
from app.events.relay import Relay
from app.runtime.clock import SystemClock
from app.runtime.tasks import end_tasks
from tests.app.costs.calls import asked, attempt, payer, settlement
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC) + timedelta(hours=12)
"""After whatever the tests spend, also at the end of a long run."""
WHERE = CostFilter(NOW - timedelta(days=2), NOW + timedelta(days=1), ("acme",))
BY_TEAM = CostQuery(WHERE, (CostDimension.LABEL,), "team")


@dataclass
class Process:
    """One server process's share: its reports, and what it follows."""

    clock: ManualClock
    kept: ReadCache
    invalidations: Invalidations
    reports: CostReports
    forecasts: Forecasts
    alerts: BudgetAlertEvents

    async def spent(self, query: CostQuery = BY_TEAM) -> Decimal:
        return (await self.reports.costs(query)).totals.cost_usd


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0.01)


@pytest.fixture
async def process(sessions: Sessions) -> AsyncIterator[Process]:
    clock, relay = ManualClock(NOW), Relay(sessions, SystemClock())
    kept = ReadCache(clock, 1_000_000, is_known=lambda: invalidations.is_known)
    invalidations = Invalidations(sessions, relay, SystemClock(), on_lost=kept.clear, on_taken=kept.invalidate)
    alerts = BudgetAlertEvents(AlertStore(sessions), relay, SystemClock())
    reports = CostReports(sessions, kept)
    made = Process(clock, kept, invalidations, reports, Forecasts(sessions, reports, clock, kept), alerts)
    parts = (relay, invalidations, FreshReads(kept, alerts, SystemClock()))
    tasks = [asyncio.create_task(each.run()) for each in parts]
    await until(lambda: invalidations.is_known)
    yield made
    await end_tasks(tasks)
    await kept.close()


async def spend(ledger: PostgresLedger, cost: str, tenant: str = "acme") -> None:
    request = asked(payer(tenant, team="red"))
    await ledger.admit(request)
    await ledger.settle(settlement(request, attempt(cost)))


class TestALabelReport:
    async def test_is_kept_for_a_minute_with_the_time_that_it_holds(self, process: Process, ledger: PostgresLedger) -> None:
        await spend(ledger, "1")
        first = await process.reports.costs(BY_TEAM)
        await spend(ledger, "1")
        assert await process.reports.costs(BY_TEAM) == first
        assert await process.spent(CostQuery(WHERE, (CostDimension.MODEL,))) == 2
        process.clock.move(60)
        later = await process.reports.costs(BY_TEAM)
        assert later.totals.cost_usd == 2
        assert later.as_of > first.as_of

    async def test_of_another_filter_page_or_tenant_is_another(self, process: Process, ledger: PostgresLedger) -> None:
        await spend(ledger, "1")
        await spend(ledger, "3", "other")
        team = (Label("team", "red"),)
        spent = [
            await process.spent(CostQuery(CostFilter(WHERE.start, WHERE.end, tenants, labels=team)))
            for tenants in (("acme",), ("other",), None, (), ("acme", "other"))
        ]
        agent = await process.spent(CostQuery(CostFilter(WHERE.start, WHERE.end, ("acme",), agents=("writer",), labels=team)))
        assert [*map(int, spent), int(agent)] == [1, 3, 4, 0, 4, 0]

    async def test_is_dropped_by_an_invalidation_of_its_tenant(self, process: Process, ledger: PostgresLedger) -> None:
        await spend(ledger, "1")
        assert await process.spent() == 1
        await spend(ledger, "1")
        await process.invalidations.add("other", Selector(SelectorKind.EVERYTHING))
        assert await process.spent() == 1
        await process.invalidations.add("acme", Selector(SelectorKind.TAG, ("costs",)))
        assert await process.spent() == 2

    async def test_shows_the_spending_that_raised_an_alert(
        self, process: Process, ledger: PostgresLedger, budgets: BudgetStore
    ) -> None:
        await budgets.create(NewBudget("b", BudgetScope(tenant="acme"), Decimal(10), thresholds=(80,)))
        assert await process.spent() == 0
        async with aclosing(process.alerts.follow(BudgetAlertFilter(None), None)) as events:
            await anext(events)
            await spend(ledger, "8")
            await anext(events)
        await until(lambda: len(process.kept) == 0)
        assert await process.spent() == 8


class TestAForecast:
    async def test_is_kept_for_a_minute_with_the_time_that_it_holds(self, process: Process, ledger: PostgresLedger) -> None:
        await spend(ledger, "1")
        first = await process.forecasts.costs(WHERE)
        assert first is not None
        await spend(ledger, "1")
        process.clock.move(59)
        assert await process.forecasts.costs(WHERE) == first
        process.clock.move(1)
        later = await process.forecasts.costs(WHERE)
        assert later is not None
        assert later.expected_usd > first.expected_usd
        assert first.as_of < later.as_of < NOW

    async def test_of_nothing_is_kept_too(self, process: Process, ledger: PostgresLedger) -> None:
        assert await process.forecasts.costs(WHERE) is None
        await spend(ledger, "1")
        assert await process.forecasts.costs(WHERE) is None
        await process.invalidations.add("acme", Selector(SelectorKind.PATTERN, ("forecast/*",)))
        assert await process.forecasts.costs(WHERE) is not None
