"""Alerts as subscribers see them: raised by the ledger, reported by the relay."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from decimal import Decimal

import pytest

from app.costs.alert_events import BudgetAlertEvent, BudgetAlertEvents, BudgetAlertRaised, BudgetAlertsMissed
from app.costs.alerts import AlertStore, BudgetAlertFilter
from app.costs.budgets import BudgetOwner, BudgetScope, BudgetStore, NewBudget
from app.costs.ledger import PostgresLedger
from app.db.sessions import Sessions
from app.domain.errors import Refused
from app.domain.paging import PageRequest
from app.events.heartbeat import Heartbeat
from app.events.relay import Relay
from app.runtime.clock import SystemClock
from tests.app.costs.calls import asked, attempt, payer, settlement
from tests.clocks import ManualClock, settle

pytestmark = pytest.mark.anyio

EVERYTHING = BudgetAlertFilter(None)


async def spend(ledger: PostgresLedger, cost: str, tenant: str = "acme") -> None:
    request = asked(payer(tenant))
    await ledger.admit(request)
    await ledger.settle(settlement(request, attempt(cost)))


class Process:
    """One server process's share of the alerts."""

    def __init__(self, sessions: Sessions) -> None:
        self.relay = Relay(sessions, SystemClock())
        self.events = BudgetAlertEvents(AlertStore(sessions), self.relay, SystemClock())


@pytest.fixture
async def process(sessions: Sessions) -> Process:
    made = Process(sessions)
    await made.relay.catch_up()
    return made


async def until_heartbeat(events: AsyncGenerator[BudgetAlertEvent, None]) -> tuple[list[BudgetAlertEvent], str]:
    """What comes before the first heartbeat, and the heartbeat's cursor."""
    before: list[BudgetAlertEvent] = []
    async with asyncio.timeout(10):
        async for event in events:
            if isinstance(event, Heartbeat):
                return before, event.cursor
            before.append(event)
    raise AssertionError("the stream ended")


async def raised(events: AsyncGenerator[BudgetAlertEvent, None]) -> BudgetAlertRaised:
    async with asyncio.timeout(10):
        event = await anext(events)
    assert isinstance(event, BudgetAlertRaised)
    return event


class TestWebhooks:
    async def test_say_whose_budget_it_is_and_whose_spending_counts(
        self, ledger: PostgresLedger, budgets: BudgetStore, process: Process, sessions: Sessions
    ) -> None:
        scope = BudgetScope("acme", "writer")
        for owner in BudgetOwner:
            await budgets.create(NewBudget(owner.value, scope, Decimal(10), thresholds=(80,), owner=owner))
        await budgets.create(NewBudget("all", BudgetScope(), Decimal(10), thresholds=(80,)))
        request = asked(payer("acme", "writer"))
        await ledger.admit(request)
        await ledger.settle(settlement(request, attempt("8")))
        alerts = (await AlertStore(sessions).page(EVERYTHING, PageRequest())).nodes
        data = [json.loads(body)["data"] for body in (await process.events.payloads([each.key for each in alerts])).values()]
        assert {each["budgetName"]: (each["owner"], each["tenant"], each["agent"]) for each in data} == {
            "INSTALLATION": ("INSTALLATION", "acme", "writer"),
            "TENANT": ("TENANT", "acme", "writer"),
            "AGENT": ("AGENT", "acme", "writer"),
            "all": ("INSTALLATION", None, None),
        }


class TestSubscribers:
    async def test_see_an_alert_as_it_is_raised(self, ledger: PostgresLedger, budgets: BudgetStore, process: Process) -> None:
        budget = await budgets.create(NewBudget("b", BudgetScope(tenant="acme"), Decimal(10)))
        async with aclosing(process.events.follow(EVERYTHING, None)) as events:
            await until_heartbeat(events)
            await spend(ledger, "8")
            await process.relay.catch_up()
            event = await raised(events)
        assert (event.alert.budget_key, event.alert.threshold, event.alert.spent_usd) == (budget.key, 80, Decimal(8))
        assert (event.replayed, event.at) == (False, event.alert.raised_at)

    async def test_that_come_back_see_what_they_missed_once_and_in_order(
        self, ledger: PostgresLedger, budgets: BudgetStore, process: Process, sessions: Sessions
    ) -> None:
        await budgets.create(NewBudget("b", BudgetScope(tenant="acme"), Decimal(10), thresholds=(20, 40, 60, 80)))
        async with aclosing(process.events.follow(EVERYTHING, None)) as events:
            await until_heartbeat(events)
            await spend(ledger, "2")
            await process.relay.catch_up()
            first = await raised(events)
        await spend(ledger, "2")
        await spend(ledger, "2")
        elsewhere = Process(sessions)
        await elsewhere.relay.catch_up()
        async with aclosing(elsewhere.events.follow(EVERYTHING, first.cursor)) as events:
            missed, cursor = await until_heartbeat(events)
            await spend(ledger, "2")
            await elsewhere.relay.catch_up()
            last = await raised(events)
        assert [(event.alert.threshold, event.replayed) for event in missed if isinstance(event, BudgetAlertRaised)] == [
            (40, True),
            (60, True),
        ]
        assert (last.alert.threshold, last.replayed) == (80, False)
        async with aclosing(elsewhere.events.follow(EVERYTHING, cursor)) as events:
            again, _ = await until_heartbeat(events)
        assert [event.alert.threshold for event in again if isinstance(event, BudgetAlertRaised)] == [80]

    async def test_see_only_what_their_filter_matches(
        self, ledger: PostgresLedger, budgets: BudgetStore, process: Process
    ) -> None:
        wanted = await budgets.create(NewBudget("wanted", BudgetScope(tenant="acme"), Decimal(10)))
        await budgets.create(NewBudget("other", BudgetScope(tenant="acme"), Decimal(10)))
        await budgets.create(NewBudget("foreign", BudgetScope(tenant="globex"), Decimal(10)))
        await spend(ledger, "8")
        await spend(ledger, "1")
        await spend(ledger, "9", "globex")
        await process.relay.catch_up()
        start = '["alertEvents", "0"]'
        async with aclosing(process.events.follow(BudgetAlertFilter("acme", (wanted.key,), 90), _cursor(start))) as events:
            seen, _ = await until_heartbeat(events)
        assert [(event.alert.budget_name, event.alert.threshold) for event in seen if isinstance(event, BudgetAlertRaised)] == [
            ("wanted", 90)
        ]

    async def test_with_a_cursor_of_another_history_are_informed_of_the_gap(self, process: Process) -> None:
        async with aclosing(process.events.follow(EVERYTHING, _cursor('["alertEvents", "7"]'))) as events:
            before, _ = await until_heartbeat(events)
        assert [type(event) for event in before] == [BudgetAlertsMissed]

    @pytest.mark.parametrize("cursor", ["nonsense", '["alerts", "1"]', '["alertEvents", "-1"]', '["alertEvents", "x"]'])
    async def test_with_a_text_that_is_no_cursor_are_refused(self, process: Process, cursor: str) -> None:
        with pytest.raises(Refused):
            await until_heartbeat(process.events.follow(EVERYTHING, _cursor(cursor)))

    async def test_hear_every_fifteen_seconds_that_the_stream_is_alive(self, sessions: Sessions) -> None:
        clock = ManualClock()
        relay = Relay(sessions, clock)
        events = BudgetAlertEvents(AlertStore(sessions), relay, clock)
        await relay.catch_up()
        beating = asyncio.create_task(relay.beat())
        async with aclosing(events.follow(EVERYTHING, None)) as stream:
            await until_heartbeat(stream)
            waiting = asyncio.ensure_future(anext(stream))
            await clock.advance(14)
            assert not waiting.done()
            await clock.advance(1)
            await settle()
            assert isinstance(await waiting, Heartbeat)
        beating.cancel()


def _cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
