from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from app.costs.budgets import (
    BudgetAuthority,
    BudgetChange,
    BudgetEnforcement,
    BudgetExceeded,
    BudgetFilter,
    BudgetOwner,
    BudgetPeriod,
    BudgetScope,
    BudgetStore,
    NewBudget,
)
from app.costs.ledger import PostgresLedger
from app.db.sessions import Sessions
from app.domain.errors import Forbidden, Refused
from app.domain.paging import PageRequest
from app.domain.problems import Conflict, InvalidInput, NotFound
from app.domain.usage import Label
from app.settings import BudgetDefault, BudgetSettings, Settings
from tests.app.costs.calls import asked, attempt, settlement
from tests.app.costs.conftest import LedgerMaker
from tests.app.costs.test_ledger_settle import waits_for_a_lock

pytestmark = pytest.mark.anyio

NEW = NewBudget("monthly", BudgetScope(tenant="acme"), Decimal(10), owner=BudgetOwner.TENANT)
OVER_ALL = replace(NEW, scope=BudgetScope(), owner=BudgetOwner.INSTALLATION)
ADMIN = BudgetAuthority()
ACME = BudgetAuthority("acme")


async def spend(ledger: PostgresLedger, cost: str) -> None:
    request = asked()
    await ledger.admit(request)
    await ledger.settle(settlement(request, attempt(cost)))


async def alerts(sessions: Sessions) -> list[tuple[int, Decimal]]:
    async with sessions.read(primary=True) as session:
        rows = await session.execute(text("select threshold, limit_usd from budget_alerts order by raised_at, threshold"))
        return [(row.threshold, row.limit_usd) for row in rows]


class TestCreate:
    async def test_gives_what_was_asked_for(self, budgets: BudgetStore) -> None:
        new = NewBudget(
            "everything",
            BudgetScope("acme", "writer", "openai", "gpt-4o", Label("team", "red")),
            Decimal("12.345678901234"[:15]),
            BudgetPeriod.DAY,
            "Europe/Berlin",
            (100, 50, 50),
            BudgetEnforcement.ALERT_ONLY,
        )
        made = await budgets.create(new)
        assert (made.name, made.scope, made.limit_usd, made.period) == (new.name, new.scope, new.limit_usd, new.period)
        assert (made.thresholds, made.enforcement, made.version, made.deleted_at) == ((50, 100), new.enforcement, 1, None)
        assert made.period_start.astimezone(ZoneInfo("Europe/Berlin")).hour == 0
        assert made.id == f"bud_{made.key.hex}"
        assert await budgets.by_key(made.key, "acme") == made

    async def test_starts_from_what_the_period_has_already_cost(self, ledger: PostgresLedger, budgets: BudgetStore) -> None:
        await spend(ledger, "9.5")
        month = await budgets.create(NEW)
        total = await budgets.create(replace(NEW, name="total", period=BudgetPeriod.TOTAL))
        other = await budgets.create(replace(NEW, name="other", scope=BudgetScope(tenant="acme", model="gpt-5")))
        label = await budgets.create(replace(NEW, name="label", scope=BudgetScope(tenant="acme", label=Label("team", "red"))))
        assert [one.spent_usd for one in (month, total, other, label)] == [Decimal("9.5"), 0, 0, 0]
        assert month.remaining_usd == Decimal("0.5")
        assert total.period_end is None

    async def test_a_name_is_taken_once_per_tenant(self, budgets: BudgetStore) -> None:
        made = await budgets.create(NEW)
        with pytest.raises(Refused) as refused:
            await budgets.create(NEW)
        assert isinstance(refused.value.reason, Conflict)
        await budgets.create(replace(NEW, scope=BudgetScope(tenant="other")))
        await budgets.create(OVER_ALL)
        await budgets.delete(made.key, ACME)
        await budgets.create(NEW)

    async def test_is_refused_once_the_tenant_has_as_many_of_its_own_as_it_may(self, sessions: Sessions) -> None:
        budgets = BudgetStore(sessions, max_per_tenant=2)
        first = await budgets.create(NEW)
        await budgets.create(replace(NEW, name="agent's", scope=BudgetScope("acme", "writer"), owner=BudgetOwner.AGENT))
        for owner in (BudgetOwner.TENANT, BudgetOwner.AGENT):
            with pytest.raises(Refused) as refused:
                await budgets.create(replace(NEW, name="third", scope=BudgetScope("acme", "writer"), owner=owner))
            assert isinstance(refused.value.reason, InvalidInput)
            assert "2 are allowed" in refused.value.reason.message
        await budgets.create(replace(NEW, name="third", owner=BudgetOwner.INSTALLATION))
        await budgets.create(OVER_ALL)
        await budgets.create(replace(NEW, scope=BudgetScope(tenant="other")))
        assert (await budgets.update(first.key, BudgetChange(first.version, name="another"), ACME)).name == "another"
        await budgets.delete(first.key, ACME)
        await budgets.create(replace(NEW, name="third"))

    async def test_counts_no_default_and_leaves_what_exists(self, sessions: Sessions, new_ledger: LedgerMaker) -> None:
        await spend(new_ledger(Settings(budgets=BudgetSettings(per_tenant=BudgetDefault(limit_usd=Decimal(10))))), "1")
        lower = BudgetStore(sessions, max_per_tenant=1)
        [default] = (await lower.page(BudgetFilter("acme"), PageRequest())).nodes
        await lower.update(default.key, BudgetChange(default.version, owner=BudgetOwner.TENANT), ADMIN)
        await lower.create(NEW)
        await BudgetStore(sessions).create(replace(NEW, name="from before the limit"))
        with pytest.raises(Refused):
            await lower.create(replace(NEW, name="one more"))
        assert len((await lower.page(BudgetFilter("acme"), PageRequest())).nodes) == 3

    async def test_at_once_makes_no_more_than_the_tenant_may_have(self, sessions: Sessions) -> None:
        budgets = BudgetStore(sessions, max_per_tenant=2)
        made = await asyncio.gather(
            *(budgets.create(replace(NEW, name=f"number {number}")) for number in range(5)), return_exceptions=True
        )
        assert sum(isinstance(one, Refused) for one in made) == 3

    @pytest.mark.parametrize(
        ("wrong", "path"),
        [
            ({"name": " "}, ("name",)),
            ({"name": "a\x00"}, ("name",)),
            ({"name": "a" * 201}, ("name",)),
            ({"limit_usd": Decimal(-1)}, ("limitUsd",)),
            ({"limit_usd": Decimal("NaN")}, ("limitUsd",)),
            ({"limit_usd": Decimal("1e16")}, ("limitUsd",)),
            ({"limit_usd": Decimal("0.0000000000001")}, ("limitUsd",)),
            ({"thresholds": (0,)}, ("thresholds",)),
            ({"thresholds": (1001,)}, ("thresholds",)),
            ({"thresholds": tuple(range(1, 30))}, ("thresholds",)),
            ({"time_zone": "Mars/Olympus"}, ("timeZone",)),
            ({"time_zone": "localtime"}, ("timeZone",)),
            ({"time_zone": "Factory"}, ("timeZone",)),
            ({"scope": BudgetScope(tenant="acme", agent="")}, ("scope", "agent")),
            ({"scope": BudgetScope(tenant="acme", label=Label("", "x"))}, ("scope", "label", "key")),
        ],
    )
    async def test_wrong_input_is_refused_with_its_path(
        self, budgets: BudgetStore, wrong: dict[str, object], path: tuple[str, ...]
    ) -> None:
        with pytest.raises(Refused) as refused:
            await budgets.create(replace(NEW, **wrong))  # type: ignore[arg-type]  # given by the table above
        assert isinstance(refused.value.reason, InvalidInput)
        assert refused.value.reason.path == path
        assert (await budgets.page(BudgetFilter(None), PageRequest())).nodes == ()


class TestUpdate:
    async def test_a_lower_limit_acts_at_once_and_alerts(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(NEW)
        await spend(ledger, "4.5")
        changed = await budgets.update(made.key, BudgetChange(1, limit_usd=Decimal(5)), ACME)
        assert (changed.version, changed.limit_usd, changed.spent_usd, changed.name) == (2, Decimal(5), Decimal("4.5"), "monthly")
        assert await alerts(sessions) == [(80, Decimal(5)), (90, Decimal(5))]
        with pytest.raises(Refused) as refused:
            await ledger.admit(asked())
        assert isinstance(refused.value.reason, BudgetExceeded)

    async def test_a_higher_limit_never_alerts_again(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(replace(NEW, limit_usd=Decimal(4), enforcement=BudgetEnforcement.ALERT_ONLY))
        await spend(ledger, "4")
        await budgets.update(made.key, BudgetChange(1, limit_usd=Decimal(100)), ADMIN)
        await budgets.update(made.key, BudgetChange(2, limit_usd=Decimal(4), enforcement=BudgetEnforcement.BLOCK), ADMIN)
        assert await alerts(sessions) == [(percent, Decimal(4)) for percent in (80, 90, 100)]

    async def test_another_version_or_a_taken_name_is_a_conflict(self, budgets: BudgetStore) -> None:
        made, other = await budgets.create(NEW), await budgets.create(replace(NEW, name="other"))
        for key, change in ((made.key, BudgetChange(2, name="x")), (other.key, BudgetChange(1, name="monthly"))):
            with pytest.raises(Refused) as refused:
                await budgets.update(key, change, ACME)
            assert isinstance(refused.value.reason, Conflict)
        assert await budgets.by_key(other.key, "acme") == other

    @pytest.mark.parametrize("tenant", ["other", "acme"])
    async def test_what_is_not_there_or_not_yours_is_not_found(self, budgets: BudgetStore, tenant: str) -> None:
        made = await budgets.create(NEW)
        key = made.key if tenant == "other" else uuid4()
        with pytest.raises(Refused) as refused:
            await budgets.update(key, BudgetChange(1, name="x"), BudgetAuthority(tenant))
        assert isinstance(refused.value.reason, NotFound)
        with pytest.raises(Refused) as refused:
            await budgets.delete(key, BudgetAuthority(tenant))
        assert isinstance(refused.value.reason, NotFound)
        assert await budgets.by_key(key, tenant) is None


class TestDelete:
    async def test_enforces_nothing_and_keeps_its_history(self, ledger: PostgresLedger, budgets: BudgetStore) -> None:
        made = await budgets.create(NEW)
        running = asked()
        await ledger.admit(running)
        await budgets.delete(made.key, ACME)
        await ledger.settle(settlement(running))
        found = await budgets.by_key(made.key, "acme")
        assert found is not None
        assert found.deleted_at is not None
        assert (found.held_usd, found.version) == (Decimal(0), 2)
        assert (await budgets.page(BudgetFilter("acme"), PageRequest())).nodes == ()
        with pytest.raises(Refused):
            await budgets.delete(made.key, ACME)


class TestChangeThatWaitedForAnother:
    @pytest.mark.parametrize(
        ("meanwhile", "error"), [("owner = 'INSTALLATION'", Forbidden), ("deleted_at = now(), version = version + 1", Refused)]
    )
    @pytest.mark.parametrize("deletes", [True, False])
    async def test_is_refused_for_what_the_budget_became(
        self, budgets: BudgetStore, sessions: Sessions, *, deletes: bool, meanwhile: str, error: type[Exception]
    ) -> None:
        made = await budgets.create(NEW)
        change = BudgetChange(1, limit_usd=Decimal(99))
        async with sessions.write() as session:
            await session.execute(text("select from budget_periods for update"))
            await session.execute(text(f"update budgets set {meanwhile}"))
            waiting = asyncio.create_task(budgets.delete(made.key, ACME) if deletes else budgets.update(made.key, change, ACME))
            await waits_for_a_lock(sessions, "lock_periods")
        with pytest.raises(error):
            await waiting
        found = await budgets.by_key(made.key, "acme")
        assert found is not None
        assert (found.limit_usd, found.version - (found.deleted_at is not None)) == (Decimal(10), 1)


class TestPage:
    async def test_by_tenant_and_name_with_filters(self, budgets: BudgetStore) -> None:
        for tenant in ("acme", "beta", None):
            for name in ("b", "a", "c"):
                await budgets.create(
                    replace(OVER_ALL, name=name, scope=BudgetScope(tenant=tenant, agent="w" if name == "c" else None))
                )
        names: list[tuple[str | None, str]] = []
        after = None
        while True:
            page = await budgets.page(BudgetFilter(None), PageRequest(2, after))
            names += [(one.scope.tenant, one.name) for one in page.nodes]
            after = page.page_info.end_cursor
            if not page.page_info.has_next_page:
                break
        assert names == [(tenant, name) for tenant in (None, "acme", "beta") for name in "abc"]
        assert len((await budgets.page(BudgetFilter("acme", "w"), PageRequest())).nodes) == 1
        with pytest.raises(Refused):
            await budgets.page(BudgetFilter(None), PageRequest(2, "WyJidWRnZXRzIiwgIngiLCAieSIsICJ6Il0"))


class TestPeriods:
    ZONES = (
        "UTC",
        "Europe/Berlin",
        "America/Havana",
        "Asia/Kathmandu",
        "Africa/Cairo",
        "Asia/Beirut",
        "Pacific/Apia",
        "America/New_York",
    )

    @pytest.mark.parametrize("zone", ZONES)
    @pytest.mark.parametrize("period", ["DAY", "WEEK", "MONTH"])
    async def test_are_the_zones_own_days_through_every_change_of_the_clocks(
        self, sessions: Sessions, zone: str, period: str
    ) -> None:
        """Over two years a period contains its moment, starts at the day's first instant, and ends where the next one starts."""
        async with sessions.read() as session:
            rows = (
                await session.execute(
                    text(
                        "select at, p.starts, p.ends"
                        " from generate_series(timestamptz '2025-01-01Z', '2027-01-01Z', interval '37 minutes') at"
                        " cross join lateral budget_period(:period, :zone, at, at) p order by at"
                    ),
                    {"period": period, "zone": zone},
                )
            ).all()
        assert len(rows) > 28_000
        info = ZoneInfo(zone)
        for one, following in pairwise(rows):
            assert one.starts <= one.at < one.ends
            assert following.starts in {one.starts, one.ends}
            if following.starts != one.starts:
                local = one.starts.astimezone(info)
                assert (one.starts - timedelta(seconds=1)).astimezone(info).date() < local.date()
                assert period != "MONTH" or local.day == 1
                assert period != "WEEK" or local.weekday() == 0

    @pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kathmandu", "Asia/Kolkata", "Australia/Lord_Howe"])
    async def test_are_the_zones_own_hours_where_the_clocks_change(self, sessions: Sessions, zone: str) -> None:
        async with sessions.read() as session:
            rows = (
                await session.execute(
                    text(
                        "select at, p.starts, p.ends"
                        " from generate_series(timestamptz '2026-01-01Z', '2027-01-01Z', interval '13 minutes') at"
                        " cross join lateral budget_period('HOUR', :zone, at, at) p order by at"
                    ),
                    {"zone": zone},
                )
            ).all()
        info = ZoneInfo(zone)
        for one, following in pairwise(rows):
            assert one.starts <= one.at < one.ends
            assert following.starts in {one.starts, one.ends}
            assert one.starts.astimezone(info).minute in ({0, 30} if zone == "Australia/Lord_Howe" else {0})
