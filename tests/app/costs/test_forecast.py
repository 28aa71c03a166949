from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from app.costs.budgets import Budget, BudgetEnforcement, BudgetOwner, BudgetPeriod, BudgetScope
from app.costs.forecast import CostForecast, Forecasts
from app.costs.queries import CostFilter
from app.costs.reports import CostReports
from app.db.sessions import Sessions
from app.domain.errors import Refused
from app.domain.ids import new_uuid
from app.domain.problems import InvalidInput
from app.domain.usage import Label
from tests.app.costs.test_reports import record, write
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)
MONTH = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


@pytest.fixture
def forecasts(sessions: Sessions) -> Forecasts:
    return Forecasts(sessions, CostReports(sessions), ManualClock(NOON))


def november(**more: object) -> CostFilter:
    return CostFilter(*MONTH, **({"tenants": ("acme",)} | more))  # type: ignore[arg-type]  # any fields of the filter


def hourly(days: int, usd: Callable[[datetime], str], until: datetime = NOON, **more: object) -> list[dict[str, object]]:
    """A record at the half of every hour of so many days up to now."""
    hours = [until - timedelta(hours=back) + timedelta(minutes=30) for back in range(1, days * 24 + 1)]
    return [record(at, usd(at), **more) for at in hours]


def budget(
    period: BudgetPeriod,
    start: datetime,
    end: datetime | None,
    spent: str,
    *,
    scope: BudgetScope | None = None,
    zone: str = "UTC",
) -> Budget:
    return Budget(
        key=new_uuid(start),
        name="b",
        scope=scope or BudgetScope("acme"),
        limit_usd=Decimal(1000),
        period=period,
        time_zone=zone,
        thresholds=(),
        enforcement=BudgetEnforcement.BLOCK,
        owner=BudgetOwner.TENANT,
        is_default=False,
        spent_usd=Decimal(spent),
        held_usd=Decimal(0),
        period_start=start,
        period_end=end,
        version=1,
        deleted_at=None,
    )


async def of_costs(forecasts: Forecasts, where: CostFilter) -> CostForecast:
    found = await forecasts.costs(where)
    assert found is not None
    return found


class TestCostForecast:
    async def test_adds_what_is_expected_to_what_was_spent(self, forecasts: Forecasts, sessions: Sessions) -> None:
        await write(sessions, hourly(40, lambda _: "1"))
        found = await of_costs(forecasts, november())
        assert found.expected_usd == pytest.approx(Decimal(30 * 24), rel=Decimal("0.001"))
        assert found.low_usd <= found.expected_usd <= found.high_usd
        assert "from 39 days" in found.method
        assert [day.day for day in found.days] == [datetime(2026, 11, day, tzinfo=UTC) for day in range(18, 31)]
        past = Decimal(17 * 24)
        assert past + sum(day.expected_usd for day in found.days) == found.expected_usd
        assert all(day.low_usd <= day.expected_usd <= day.high_usd for day in found.days)

    async def test_counts_only_what_the_filter_matches(self, forecasts: Forecasts, sessions: Sessions) -> None:
        mine = hourly(20, lambda _: "1", agent="a", labels={"team": "x"})
        await write(sessions, mine + hourly(20, lambda _: "5", agent="b") + hourly(20, lambda _: "9", tenant="other"))
        by_agent = await of_costs(forecasts, november(agents=("a",)))
        by_label = await of_costs(forecasts, november(labels=(Label("team", "x"),)))
        everything = await of_costs(forecasts, november(tenants=None))
        assert by_agent == by_label
        assert by_agent.expected_usd < everything.expected_usd / 14

    async def test_knows_which_hours_of_a_day_are_still_to_come(self, forecasts: Forecasts, sessions: Sessions) -> None:
        await write(sessions, hourly(20, lambda at: "10" if at.hour < 12 else "0"))
        today = (await of_costs(forecasts, november())).days[0]
        assert today.expected_usd == 120

    async def test_days_begin_at_local_midnight_also_in_the_middle_of_an_hour(
        self, forecasts: Forecasts, sessions: Sessions
    ) -> None:
        await write(sessions, hourly(30, lambda _: "1"))
        zone = ZoneInfo("Asia/Kathmandu")
        days = (await of_costs(forecasts, november(time_zone="Asia/Kathmandu"))).days
        assert days[0].day == datetime(2026, 11, 18, tzinfo=zone)
        assert days[1].expected_usd == pytest.approx(Decimal(24), rel=Decimal("0.01"))

    async def test_a_period_that_is_over_is_what_was_spent(self, forecasts: Forecasts, sessions: Sessions) -> None:
        await write(sessions, hourly(20, lambda _: "1"))
        found = await of_costs(forecasts, CostFilter(NOON - timedelta(days=2), NOON - timedelta(days=1), ("acme",)))
        assert found.low_usd == found.expected_usd == found.high_usd == 24
        assert (found.days, found.method) == ((), "The period is over. This is what was spent.")

    async def test_a_period_ahead_has_only_what_is_expected(self, forecasts: Forecasts, sessions: Sessions) -> None:
        await write(sessions, hourly(20, lambda _: "1"))
        found = await of_costs(forecasts, CostFilter(NOON + timedelta(days=5), NOON + timedelta(days=6), ("acme",)))
        assert found.expected_usd == pytest.approx(Decimal(24), rel=Decimal("0.01"))

    async def test_little_history_is_said(self, forecasts: Forecasts, sessions: Sessions) -> None:
        await write(sessions, hourly(1, lambda _: "1"))
        assert "fewer than three whole days" in (await of_costs(forecasts, november())).method

    async def test_nothing_ever_spent_is_unknown(self, forecasts: Forecasts, sessions: Sessions) -> None:
        await write(sessions, hourly(20, lambda _: "1", tenant="other"))
        assert await forecasts.costs(november()) is None

    async def test_too_far_ahead_is_refused(self, forecasts: Forecasts) -> None:
        with pytest.raises(Refused) as refused:
            await forecasts.costs(CostFilter(NOON, NOON + timedelta(days=401), ("acme",)))
        assert isinstance(refused.value.reason, InvalidInput)


class TestBudgetForecasts:
    async def test_each_is_expected_by_its_own_scope_period_and_zone(self, forecasts: Forecasts, sessions: Sessions) -> None:
        await write(
            sessions,
            hourly(30, lambda _: "1", agent="a") + hourly(30, lambda _: "2", agent="b", labels={"team": "x"}),
        )
        day, month = NOON.replace(hour=0), MONTH
        asked = {
            "month": budget(BudgetPeriod.MONTH, *month, "1260"),
            "agent": budget(BudgetPeriod.MONTH, *month, "420", scope=BudgetScope("acme", agent="a")),
            "label": budget(BudgetPeriod.MONTH, *month, "840", scope=BudgetScope("acme", label=Label("team", "x"))),
            "everybody": budget(BudgetPeriod.DAY, day, day + timedelta(days=1), "36", scope=BudgetScope()),
            "hour": budget(BudgetPeriod.HOUR, NOON, NOON + timedelta(hours=1), "0", scope=BudgetScope("acme")),
            "kolkata": budget(BudgetPeriod.MONTH, *month, "1260", zone="Asia/Kolkata"),
        }
        found = await forecasts.budgets([*asked.values()])
        expected = {"month": 2160, "agent": 720, "label": 1440, "everybody": 72, "hour": 3, "kolkata": 2160}
        for name, usd in expected.items():
            assert found[asked[name].key] == pytest.approx(Decimal(usd), rel=Decimal("0.02")), name

    async def test_nothing_is_said_without_an_end_or_a_history(self, forecasts: Forecasts, sessions: Sessions) -> None:
        await write(sessions, hourly(3, lambda _: "1"))
        without_end = budget(BudgetPeriod.TOTAL, MONTH[0], None, "5")
        without_history = budget(BudgetPeriod.MONTH, *MONTH, "0", scope=BudgetScope("nobody"))
        assert await forecasts.budgets([without_end, without_history]) == {}
