from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text

from app.costs.budgets import BudgetScope, BudgetStore, NewBudget
from app.costs.ledger import PostgresLedger
from app.costs.upkeep import reconcile, tidy
from app.db.sessions import Sessions
from tests.app.costs.calls import asked, attempt, settlement
from tests.app.costs.test_reports import record, write

pytestmark = pytest.mark.anyio


async def scalar(sessions: Sessions, statement: str) -> object:
    async with sessions.write() as session:
        return (await session.execute(text(statement))).scalar_one()


class TestTidy:
    async def test_records_that_came_before_their_partition_are_moved_into_it(self, sessions: Sessions) -> None:
        now = datetime.now(UTC)
        await write(sessions, [record(now), record(now - timedelta(days=400))])
        assert await scalar(sessions, "select count(*) from partitions.usage_records_rest") == 2
        await asyncio.gather(*(tidy(sessions) for _ in range(3)))
        assert await scalar(sessions, "select count(*) from partitions.usage_records_rest") == 1
        assert await scalar(sessions, "select count(*) from usage_records") == 2
        assert await scalar(sessions, "select count(*) from pg_inherits where inhparent = 'usage_records'::regclass") == 4
        await write(sessions, [record(now + timedelta(days=32))])
        assert await scalar(sessions, "select count(*) from partitions.usage_records_rest") == 1

    async def test_only_finished_calls_expire(self, ledger: PostgresLedger, sessions: Sessions) -> None:
        running, finished = asked(), asked()
        await ledger.admit(running)
        await ledger.admit(finished)
        await ledger.settle(settlement(finished))
        await scalar(sessions, "with aged as (update completions set expires_at = now() returning 1) select count(*) from aged")
        assert await ledger.stored(finished.call) is None
        await tidy(sessions)
        assert await scalar(sessions, "select count(*) from completions") == 1
        assert await ledger.stored(running.call) is not None


class TestReconcile:
    async def test_finds_what_the_rows_do_not_carry(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(NewBudget("b", BudgetScope(tenant="acme"), Decimal(100)))
        await ledger.admit(asked())
        done = asked()
        await ledger.admit(done)
        await ledger.settle(settlement(done, attempt("0.5")))
        assert await reconcile(sessions) == []
        await scalar(sessions, "with wrong as (update budget_periods set held_usd = 3 returning 1) select count(*) from wrong")
        (found,) = await reconcile(sessions)
        assert (found.budget, found.held_usd, found.holding_usd) == (made.key, Decimal(3), Decimal(2))
        assert found.spent_usd == found.recorded_usd == Decimal("0.5")
