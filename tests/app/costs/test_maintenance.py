from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import text

from app.costs import maintenance
from app.costs.budgets import BudgetEnforcement, BudgetScope, BudgetStore, NewBudget
from app.costs.ledger import PostgresLedger
from app.costs.maintenance import Discrepancy, Maintenance, reconcile, repair_sums, tidy
from app.db.sessions import Sessions
from app.settings import ContentSettings, Settings
from tests.app.costs.calls import asked, attempt, settlement, sums
from tests.app.costs.conftest import LedgerMaker
from tests.app.costs.test_reports import record, write
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio


async def scalar(sessions: Sessions, statement: str) -> object:
    async with sessions.write() as session:
        return (await session.execute(text(statement))).scalar_one()


class TestTidy:
    async def test_records_that_came_before_their_partition_are_moved_into_it(self, sessions: Sessions, owner: Sessions) -> None:
        now = datetime.now(UTC)
        await write(sessions, [record(now), record(now - timedelta(days=400))])
        assert await scalar(owner, "select count(*) from partitions.usage_records_rest") == 2
        await asyncio.gather(*(tidy(sessions, timedelta(days=1)) for _ in range(3)))
        assert await scalar(owner, "select count(*) from partitions.usage_records_rest") == 1
        assert await scalar(sessions, "select count(*) from usage_records") == 2
        assert await scalar(sessions, "select count(*) from pg_inherits where inhparent = 'usage_records'::regclass") == 4
        await write(sessions, [record(now + timedelta(days=32))])
        assert await scalar(owner, "select count(*) from partitions.usage_records_rest") == 1

    async def test_only_finished_calls_expire(self, ledger: PostgresLedger, sessions: Sessions) -> None:
        running, finished = asked(), asked()
        await ledger.admit(running)
        await ledger.admit(finished)
        await ledger.settle(settlement(finished))
        await scalar(sessions, "with aged as (update completions set expires_at = now() returning 1) select count(*) from aged")
        assert await ledger.stored(finished.call) is None
        await tidy(sessions, timedelta(days=1))
        assert await scalar(sessions, "select count(*) from completions") == 1
        assert await ledger.stored(running.call) is not None


class TestContentKeptForLessThanItsCall:
    async def test_is_shown_no_more_and_then_deleted(self, new_ledger: LedgerMaker, sessions: Sessions) -> None:
        ledger = new_ledger(Settings(content=ContentSettings(ttl=timedelta(hours=1))))
        old, young = asked(), asked()
        for request in (old, young):
            await ledger.admit(request)
            await ledger.settle(settlement(request, document=b"words"))
        await scalar(
            sessions,
            "with aged as (update completions set finished_at = finished_at - interval '61 minutes'"
            f" where key = '{old.call}' returning 1) select count(*) from aged",
        )
        stored = [await ledger.stored(request.call) for request in (old, young)]
        assert [(each.document, each.expired) for each in stored if each] == [(None, True), (b"words", False)]
        assert await scalar(sessions, "select count(*) from completions where document is not null") == 2
        await tidy(sessions, timedelta(hours=1))
        assert await scalar(sessions, "select document from completions where document is not null") == b"words"
        assert await ledger.stored(old.call) == stored[0]


class TestReconcile:
    async def test_finds_what_the_rows_do_not_carry(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await spent_and_held(ledger, budgets)
        assert await discrepancies(sessions) == []
        await falsify(sessions, held="3")
        (found,) = await discrepancies(sessions)
        assert (found.budget, found.held_usd, found.holding_usd) == (made, Decimal(3), Decimal(2))
        assert found.spent_usd == found.recorded_usd == Decimal("0.5")

    async def test_looks_at_every_budget(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(maintenance, "BUDGETS_AT_ONCE", 2)
        for number in range(5):
            await budgets.create(NewBudget(f"b{number}", BudgetScope(tenant="acme"), Decimal(100)))
        await falsify(sessions, held="3")
        assert len({found.budget for found in await discrepancies(sessions)}) == 5


class TestPutRight:
    async def test_counts_the_rows_anew(self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions) -> None:
        made = await spent_and_held(ledger, budgets)
        await falsify(sessions, held="3", spent="0.1")
        await repair_sums(sessions, (await discrepancies(sessions))[0])
        found = await sums(sessions, made)
        assert (found.spent, found.held) == (found.records, found.hold_rows) == (Decimal("0.5"), Decimal(2))

    async def test_never_lowers_what_is_spent(self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions) -> None:
        made = await spent_and_held(ledger, budgets)
        await falsify(sessions, spent="7")
        await repair_sums(sessions, (await discrepancies(sessions))[0])
        assert (await sums(sessions, made)).spent == 7

    async def test_alerts_of_what_it_found(self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions) -> None:
        await spent_and_held(ledger, budgets, limit="0.5", enforcement=BudgetEnforcement.ALERT_ONLY)
        await scalar(sessions, "with gone as (delete from budget_alerts returning 1) select count(*) from gone")
        await falsify(sessions, spent="0")
        await repair_sums(sessions, (await discrepancies(sessions))[0])
        assert await scalar(sessions, "select array_agg(threshold order by threshold) from budget_alerts") == [80, 90, 100]

    async def test_is_right_while_calls_go_on(self, new_ledger: LedgerMaker, budgets: BudgetStore, sessions: Sessions) -> None:
        made = (await budgets.create(NewBudget("b", BudgetScope(tenant="acme"), Decimal(10_000)))).key
        found = Discrepancy(made, (await budgets.by_keys([made], None))[made].period_start, *[Decimal(0)] * 4)

        async def call(ledger: PostgresLedger) -> None:
            for _ in range(10):
                request = asked()
                await ledger.admit(request)
                await ledger.settle(settlement(request))

        async def correct() -> None:
            for _ in range(20):
                await repair_sums(sessions, found)

        await asyncio.gather(correct(), *(call(ledger) for ledger in (new_ledger(), new_ledger()) for _ in range(5)))
        seen = await sums(sessions, made)
        assert (seen.spent, seen.held) == (seen.records, seen.hold_rows) == (Decimal(200), Decimal(0))


class TestMaintenance:
    async def test_one_process_does_what_is_due_and_says_what_it_found(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions, owner: Sessions, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = await spent_and_held(ledger, budgets)
        await falsify(sessions, held="3")
        await asyncio.gather(*(Maintenance(sessions, ManualClock(), timedelta(days=1)).run_due() for _ in range(4)))
        assert [record.__dict__["budget"] for record in caplog.records if record.levelname == "ERROR"] == [str(made)]
        assert await discrepancies(sessions) == []
        assert await scalar(sessions, "select count(*) from maintenance where begun_at > now() - interval '1 minute'") == 2
        await falsify(sessions, held="3")
        await Maintenance(sessions, ManualClock(), timedelta(days=1)).run_due()
        assert len(await discrepancies(sessions)) == 1

    async def test_a_task_that_failed_is_due_again_and_stops_no_other(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions, owner: Sessions, caplog: pytest.LogCaptureFixture
    ) -> None:
        await spent_and_held(ledger, budgets)
        await falsify(sessions, held="3")
        await execute(owner, "alter function make_usage_partition(timestamptz) rename to elsewhere")
        process = Maintenance(sessions, ManualClock(), timedelta(days=1))
        await process.run_due()
        assert await discrepancies(sessions) == []
        assert "maintenance failed" in caplog.text
        await execute(owner, "alter function elsewhere(timestamptz) rename to make_usage_partition")
        await process.run_due()
        assert await scalar(sessions, "select count(*) from pg_inherits where inhparent = 'usage_records'::regclass") == 4


async def spent_and_held(
    ledger: PostgresLedger,
    budgets: BudgetStore,
    limit: str = "100",
    enforcement: BudgetEnforcement = BudgetEnforcement.BLOCK,
) -> UUID:
    """A budget of which 0.50 USD is spent and 2 USD are held."""
    made = await budgets.create(NewBudget("b", BudgetScope(tenant="acme"), Decimal(limit), enforcement=enforcement))
    await ledger.admit(asked())
    done = asked()
    await ledger.admit(done)
    await ledger.settle(settlement(done, attempt("0.5")))
    return made.key


async def discrepancies(sessions: Sessions) -> list[Discrepancy]:
    return [found async for found in reconcile(sessions)]


async def falsify(sessions: Sessions, *, spent: str = "spent_usd", held: str = "held_usd") -> None:
    await execute(sessions, f"update budget_periods set spent_usd = {spent}, held_usd = {held}")


async def execute(sessions: Sessions, statement: str) -> None:
    async with sessions.write() as session:
        await session.execute(text(statement))
