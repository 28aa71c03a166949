"""What was charged stays as it was charged, whatever prices become."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.costs.prices import PriceBook, PriceUsed
from app.costs.queries import CostFilter, CostQuery
from app.costs.reports import CostReports, UsageRecord
from app.db.sessions import Sessions
from app.domain.paging import PageRequest
from app.domain.usage import ServiceTier, TokenUsage
from app.settings import ModelSettings, PriceSettings, ProviderKindName, ProviderSettings, Settings
from tests.app.costs.calls import MODEL, PROVIDER, asked, attempt, settlement
from tests.app.costs.conftest import LedgerMaker

pytestmark = pytest.mark.anyio


def priced(input_usd: str) -> Settings:
    price = PriceSettings(input_usd=Decimal(input_usd), output_usd=Decimal(0))
    model = ModelSettings(name=MODEL, price=price)
    return Settings(providers=(ProviderSettings(name=PROVIDER, kind=ProviderKindName.OPENAI, models=(model,)),))


def ever() -> CostFilter:
    now = datetime.now(UTC)
    return CostFilter(now - timedelta(days=1), now + timedelta(days=1), ("acme",))


async def recorded(sessions: Sessions) -> tuple[UsageRecord, ...]:
    return (await CostReports(sessions).records(ever(), PageRequest())).nodes


class TestAfterAChangeOfPrices:
    async def test_the_past_keeps_its_cost_and_its_price(self, new_ledger: LedgerMaker, sessions: Sessions) -> None:
        costs = []
        for price in ("2", "8"):
            settings = priced(price)
            rates = PriceBook(settings).rates(PROVIDER, MODEL, datetime.now(UTC))
            assert rates is not None
            used, ledger, request = attempt(), new_ledger(settings), asked()
            assert used.usage is not None
            costs.append(rates.cost(used.usage))
            await ledger.admit(request)
            await ledger.settle(settlement(request, replace(used, cost_usd=costs[-1])))
        later, earlier = await recorded(sessions)
        assert [earlier.cost_usd, later.cost_usd] == costs == [Decimal("0.002"), Decimal("0.008")]
        assert earlier.price == PriceUsed(Decimal(2), Decimal(0), None, None, "configuration")
        assert later.price == PriceUsed(Decimal(8), Decimal(0), None, None, "configuration")
        assert (await CostReports(sessions).costs(CostQuery(ever()))).totals.cost_usd == sum(costs)

    async def test_a_call_that_is_settled_again_keeps_what_it_was_charged_first(
        self, new_ledger: LedgerMaker, sessions: Sessions
    ) -> None:
        ledger, request, used = new_ledger(priced("2")), asked(), attempt("0.002")
        await ledger.admit(request)
        await ledger.settle(settlement(request, used))
        await ledger.settle(settlement(request, replace(used, cost_usd=Decimal("0.008"))))
        (record,) = await recorded(sessions)
        assert record.cost_usd == Decimal("0.002")


class TestTheTierThatServedACall:
    async def test_is_in_the_price_that_is_kept(self, new_ledger: LedgerMaker, sessions: Sessions) -> None:
        usage = TokenUsage(uncached_input_tokens=1000, visible_output_tokens=100, service_tier=ServiceTier.BATCH)
        ledger, request = new_ledger(Settings()), asked()
        await ledger.admit(request)
        await ledger.settle(settlement(request, replace(attempt("0.001"), usage=usage)))
        (record,) = await recorded(sessions)
        assert record.price is not None
        assert (record.price.input_usd, record.price.source) == (Decimal("1.25"), "genai-prices openai/gpt-4o batch")


class TestACallThatRunsWhilePricesChange:
    async def test_its_record_shows_the_price_that_it_was_charged(self, new_ledger: LedgerMaker, sessions: Sessions) -> None:
        """o3 costs 2 USD a million tokens of input since 10 June 2025, and cost 10 before."""
        begun, tried = datetime(2025, 6, 9, 23, 59, 59, tzinfo=UTC), datetime(2025, 6, 10, 0, 0, 1, tzinfo=UTC)
        book = PriceBook(Settings())
        before, after = book.rates("openai", "o3", begun), book.rates("openai", "o3", tried)
        assert before is not None
        assert after is not None
        ledger, request, usage = new_ledger(), asked(), TokenUsage(uncached_input_tokens=1000)
        assert before.cost(usage) == 5 * after.cost(usage)
        used = replace(attempt(model="o3"), started_at=tried, usage=usage, cost_usd=before.cost(usage))
        await ledger.admit(request)
        await ledger.settle(settlement(request, used, priced_at=begun))
        (record,) = await recorded(sessions)
        assert record.price == before.used(1000)
        assert record.cost_usd == Decimal("0.01")
