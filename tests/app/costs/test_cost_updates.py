"""Running totals: computed once a scope, reported when they change, and never oftener than asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.costs.cost_updates import CostUpdate, CostUpdateEvent, CostUpdates
from app.costs.ledger import PostgresLedger
from app.costs.queries import CostFilter, CostQuery
from app.costs.reports import CostReport, CostReports
from app.db.sessions import Sessions
from app.domain.errors import Refused, StoreUnavailable
from app.events.heartbeat import Heartbeat
from app.runtime.clock import SystemClock
from tests.app.costs.calls import asked, attempt, payer, settlement
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

EVER = CostFilter(datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), ("acme",))
TICK = timedelta(milliseconds=100)


async def spend(ledger: PostgresLedger, cost: str, tenant: str = "acme") -> None:
    request = asked(payer(tenant))
    await ledger.admit(request)
    await ledger.settle(settlement(request, attempt(cost)))


async def next_total(events: AsyncGenerator[CostUpdateEvent, None]) -> Decimal:
    async with asyncio.timeout(10):
        event = await anext(events)
    assert isinstance(event, CostUpdate)
    return event.totals.cost_usd


class Counting(CostReports):
    """Counts how often the database is asked, and can be asked to fail."""

    asked = 0
    failure: Exception | None = None

    async def costs(self, query: CostQuery) -> CostReport:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return await super().costs(query)


class TestFollowers:
    async def test_are_informed_how_it_stands_and_every_change(self, ledger: PostgresLedger, sessions: Sessions) -> None:
        await spend(ledger, "1")
        updates = CostUpdates(CostReports(sessions), SystemClock())
        async with aclosing(updates.follow(EVER, TICK)) as events:
            seen = [await next_total(events)]
            await spend(ledger, "2.5")
            await spend(ledger, "9", "globex")
            seen.append(await next_total(events))
        assert seen == [Decimal(1), Decimal("3.5")]
        assert len(updates) == 0

    async def test_of_one_scope_share_the_computing(self, ledger: PostgresLedger, sessions: Sessions) -> None:
        await spend(ledger, "1")
        clock, reports = ManualClock(), Counting(sessions)
        updates = CostUpdates(reports, clock)
        followers = [updates.follow(EVER, timedelta(seconds=1)) for _ in range(20)]
        assert {await next_total(events) for events in followers} == {Decimal(1)}
        assert (reports.asked, len(updates)) == (1, 1)
        for events in followers:
            await events.aclose()
        assert len(updates) == 0

    async def test_of_one_scope_share_the_computing_whatever_their_intervals(
        self, ledger: PostgresLedger, sessions: Sessions
    ) -> None:
        clock, reports = ManualClock(), Counting(sessions)
        updates = CostUpdates(reports, clock)
        async with (
            aclosing(updates.follow(EVER, timedelta(hours=1))) as patient,
            aclosing(updates.follow(EVER, timedelta(seconds=1))) as eager,
            aclosing(updates.follow(EVER, timedelta(seconds=5))) as other,
        ):
            assert await next_total(patient) == 0
            await spend(ledger, "1")
            assert await next_total(eager) == Decimal(1)
            assert await next_total(other) == Decimal(1)
            assert (reports.asked, len(updates)) == (2, 1)
            await spend(ledger, "1")
            waiting = asyncio.ensure_future(next_total(eager))
            later = asyncio.ensure_future(next_total(other))
            await clock.advance(1.1)
            assert await waiting == Decimal(2)
            assert reports.asked == 3
            assert not later.done()
            await clock.advance(4)
            assert await later == Decimal(2)
        assert len(updates) == 0

    async def test_are_informed_no_oftener_than_they_asked(self, ledger: PostgresLedger, sessions: Sessions) -> None:
        clock = ManualClock()
        updates = CostUpdates(CostReports(sessions), clock)
        async with aclosing(updates.follow(EVER, timedelta(seconds=5))) as events:
            await next_total(events)
            await spend(ledger, "1")
            waiting = asyncio.ensure_future(anext(events))
            await clock.advance(4.9)
            assert not waiting.done()
            await clock.advance(0.2)
            async with asyncio.timeout(10):
                event = await waiting
        assert isinstance(event, CostUpdate)
        assert event.totals.cost_usd == Decimal(1)

    async def test_hear_that_the_stream_is_alive_where_nothing_changes(self, sessions: Sessions) -> None:
        clock = ManualClock()
        updates = CostUpdates(CostReports(sessions), clock)
        async with aclosing(updates.follow(EVER, timedelta(hours=1))) as events:
            await next_total(events)
            waiting = asyncio.ensure_future(anext(events))
            await clock.advance(3600)
            await clock.advance(15)
            assert isinstance(await waiting, Heartbeat)

    @pytest.mark.parametrize("failure", [StoreUnavailable("PostgreSQL"), ArithmeticError("unforeseen")])
    async def test_are_informed_where_the_totals_cannot_be_had(self, sessions: Sessions, failure: Exception) -> None:
        reports = Counting(sessions)
        reports.failure = failure
        updates = CostUpdates(reports, SystemClock())
        with pytest.raises(type(failure)):
            await next_total(updates.follow(EVER, TICK))
        assert len(updates) == 0

    @pytest.mark.parametrize("interval", [timedelta(0), timedelta(milliseconds=99), timedelta(hours=2), timedelta(seconds=-1)])
    async def test_may_not_ask_for_any_interval(self, sessions: Sessions, interval: timedelta) -> None:
        with pytest.raises(Refused):
            await next_total(CostUpdates(CostReports(sessions), SystemClock()).follow(EVER, interval))
