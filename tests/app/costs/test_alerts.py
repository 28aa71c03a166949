from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from app.costs.alerts import AlertStore, BudgetAlertFilter
from app.costs.budgets import BudgetEnforcement, BudgetScope, BudgetStore, NewBudget
from app.costs.holds import Admitted
from app.costs.ledger import PostgresLedger
from app.db.sessions import Sessions
from app.domain.errors import Refused
from app.domain.paging import PageRequest
from tests.app.costs.calls import asked, attempt, estimate, payer, settlement
from tests.app.costs.conftest import LedgerMaker

pytestmark = pytest.mark.anyio

EVERYTHING = BudgetAlertFilter(None)


async def spend(ledger: PostgresLedger, cost: str, tenant: str = "acme") -> None:
    request = asked(payer(tenant))
    await ledger.admit(request)
    await ledger.settle(settlement(request, attempt(cost)))


async def thresholds(store: AlertStore) -> list[int]:
    return [alert.threshold for alert in reversed((await store.page(EVERYTHING, PageRequest(100))).nodes)]


@pytest.fixture
def alerts(sessions: Sessions) -> AlertStore:
    return AlertStore(sessions)


class TestRaising:
    async def test_each_threshold_once_in_the_settlement_that_crosses_it(
        self, ledger: PostgresLedger, budgets: BudgetStore, alerts: AlertStore
    ) -> None:
        await budgets.create(NewBudget("b", BudgetScope(tenant="acme"), Decimal(100)))
        seen = []
        for cost in ("79", "1", "5", "5", "5"):
            await spend(ledger, cost)
            seen.append(sorted(await thresholds(alerts)))
        assert seen == [[], [80], [80], [80, 90], [80, 90]]

    async def test_the_first_refusal_is_a_hundred_percent(
        self, ledger: PostgresLedger, budgets: BudgetStore, alerts: AlertStore
    ) -> None:
        await budgets.create(NewBudget("b", BudgetScope(tenant="acme"), Decimal(1)))
        for _ in range(3):
            with pytest.raises(Refused):
                await ledger.admit(asked())
        assert await thresholds(alerts) == [100]

    async def test_many_processes_raise_it_once(self, new_ledger: LedgerMaker, budgets: BudgetStore, alerts: AlertStore) -> None:
        await budgets.create(NewBudget("b", BudgetScope(tenant="acme"), Decimal(100), thresholds=tuple(range(5, 101, 5))))
        ledgers = [new_ledger() for _ in range(4)]
        requests = [asked(worst=estimate(input_usd="1", token_usd="0")) for _ in range(100)]
        admitted = await asyncio.gather(*(ledgers[n % 4].admit(one) for n, one in enumerate(requests)))
        assert all(isinstance(one, Admitted) for one in admitted)
        await asyncio.gather(*(ledgers[n % 4].settle(settlement(one, attempt("1"))) for n, one in enumerate(requests)))
        assert sorted(await thresholds(alerts)) == list(range(5, 101, 5))

    async def test_a_budget_made_over_its_thresholds_says_so_at_once(
        self, ledger: PostgresLedger, budgets: BudgetStore, alerts: AlertStore
    ) -> None:
        await spend(ledger, "9")
        await budgets.create(NewBudget("b", BudgetScope(), Decimal(10), enforcement=BudgetEnforcement.ALERT_ONLY))
        (ninety, eighty) = sorted((await alerts.page(EVERYTHING, PageRequest())).nodes, key=lambda one: -one.threshold)
        assert (ninety.threshold, eighty.threshold) == (90, 80)
        assert (ninety.budget_name, ninety.tenant, ninety.spent_usd, ninety.limit_usd) == ("b", None, Decimal(9), Decimal(10))
        assert await alerts.by_key(ninety.key, None) == ninety
        assert await alerts.by_key(ninety.key, "acme") is None


class TestPage:
    async def test_newest_first_and_filtered(self, ledger: PostgresLedger, budgets: BudgetStore, alerts: AlertStore) -> None:
        made = await budgets.create(NewBudget("b", BudgetScope(tenant="acme"), Decimal(10)))
        await budgets.create(NewBudget("all", BudgetScope(), Decimal(10), thresholds=(10, 20, 30)))
        for cost in ("2", "2", "4.5"):
            await spend(ledger, cost)
        whole = (await alerts.page(EVERYTHING, PageRequest(100))).nodes
        assert len(whole) == 4
        first = await alerts.page(EVERYTHING, PageRequest(3))
        rest = await alerts.page(EVERYTHING, PageRequest(3, first.page_info.end_cursor))
        assert first.nodes + rest.nodes == whole
        assert {one.threshold for one in (await alerts.page(BudgetAlertFilter("acme"), PageRequest())).nodes} == {80}
        assert len((await alerts.page(BudgetAlertFilter(None, (made.key,)), PageRequest())).nodes) == 1
        assert len((await alerts.page(BudgetAlertFilter(None, None, 25), PageRequest())).nodes) == 2
        with pytest.raises(Refused):
            await alerts.page(EVERYTHING, PageRequest(3, "WyJhbGVydHMiLCAieCIsICJ5Il0"))
