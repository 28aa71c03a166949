"""The expected spending by the end of a period: what was spent so far, and what the history makes likely for the rest.

The history comes from the roll-ups, by local day. One statement reads all series of a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import text

from app.cache.decorators import cached
from app.cache.reads import ReadCache, ReadKey, read_key
from app.costs.budgets import Budget
from app.costs.daily_model import MIN_DAYS_FOR_LEVEL, DailyModel, Z, fit_days
from app.costs.periods import HOUR, QUARTER, grains_within
from app.costs.queries import CostFilter, CostQuery
from app.costs.reports import EARLY, MAX_AGE, CostReports
from app.db.sessions import Sessions
from app.domain.errors import Refused
from app.domain.money import ZERO
from app.domain.paging import PageRequest
from app.domain.problems import InvalidInput
from app.runtime.clock import Clock

HISTORY_DAYS = 56
MAX_DAYS = 400
MIN_DAYS_FOR_HOURS = 7
"""With a history of at least this many days, the usual spending per hour of the day counts. With less, all hours count the
same."""
_MILLIONTH = Decimal("0.000001")
_SPENT_ALREADY = "The period is over. This is what was spent."


@dataclass(frozen=True, slots=True)
class ForecastDay:
    """`day` is the day's local midnight."""

    day: datetime
    expected_usd: Decimal
    low_usd: Decimal
    high_usd: Decimal


@dataclass(frozen=True, slots=True)
class CostForecast:
    """A forecast for the whole period, including what was spent in it. `days` are today and the days to come."""

    as_of: datetime
    expected_usd: Decimal
    low_usd: Decimal
    high_usd: Decimal
    method: str
    days: tuple[ForecastDay, ...] = ()


@dataclass(frozen=True, slots=True)
class _History:
    """Spending by local day. `later` is the part of each day's spending that came after the present time of day."""

    usd: dict[date, Decimal]
    later: dict[date, Decimal]


@dataclass(frozen=True, slots=True)
class _Course:
    """The days to come: local midnights from today on, the part of each day that is in the period and not over yet, and the
    model.

    `today` is what was already spent today, within the period.
    """

    model: DailyModel
    midnights: tuple[datetime, ...]
    parts: tuple[float, ...]
    today: Decimal


def _forecast_key(where: CostFilter) -> ReadKey:
    return read_key("forecast", where.tenants, where)


class Forecasts:
    def __init__(self, sessions: Sessions, reports: CostReports, clock: Clock, kept_reads: ReadCache | None = None) -> None:
        """With `kept_reads`, a forecast of costs can be up to MAX_AGE old; `as_of` says so."""
        self._sessions = sessions
        self._reports = reports
        self._clock = clock
        self.kept_reads = kept_reads

    @cached(ttl=MAX_AGE, key=_forecast_key, tags=("forecast",), early=EARLY)
    async def costs(self, where: CostFilter) -> CostForecast | None:
        """None if nothing was ever spent. Raises Refused(InvalidInput) for a period that ends too far ahead."""
        now = self._clock.now()
        if where.end > now + timedelta(days=MAX_DAYS):
            raise Refused(InvalidInput(f"At most {MAX_DAYS} days ahead can be forecast.", ("filter", "period", "to")))
        report = await self._reports.costs(CostQuery(where, page=PageRequest(1)))
        spent, as_of = report.totals.cost_usd, min(now, report.as_of)
        if where.end <= now:
            return CostForecast(as_of, spent, spent, spent, _SPENT_ALREADY)
        (history,) = await self._histories([where], now)
        found = await asyncio.to_thread(_forecast, history, where, spent, now)
        return None if found is None else replace(found, as_of=as_of)

    async def budgets(self, budgets: Sequence[Budget]) -> dict[UUID, Decimal]:
        """Returns, with one statement, the expected spending by the end of each running period that can be predicted."""
        now = self._clock.now()
        wanted = {
            budget: _filter(budget, budget.period_end)
            for budget in budgets
            if budget.deleted_at is None and budget.period_end is not None
        }
        found: dict[UUID, Decimal] = {}
        if not wanted:
            return found
        for (budget, where), history in zip(wanted.items(), await self._histories([*wanted.values()], now), strict=True):
            await asyncio.sleep(0)
            course = _course(history, where.start, where.end, where.zone, now)
            if course is not None:
                found[budget.key] = budget.spent_usd + sum(map(_usd, course.model.expected(course.parts)), start=ZERO)
        return found

    async def _histories(self, filters: Sequence[CostFilter], now: datetime) -> list[_History]:
        wanted = [_series(number, where, now) for number, where in enumerate(filters)]
        found = [_History({}, {}) for _ in filters]
        async with self._sessions.read() as session:
            rows = await session.execute(_HISTORY, {"wanted": msgspec.json.encode(wanted).decode(), "now": now})
            for number, day, usd, later in rows:
                found[number].usd[day] = usd
                found[number].later[day] = later
        return found


_HISTORY = text("select /* forecast.history */ * from spending_by_day(cast(cast(:wanted as text) as jsonb), :now)")


def _series(number: int, where: CostFilter, now: datetime) -> dict[str, object]:
    start = _midnight(now.astimezone(where.zone).date() - timedelta(days=HISTORY_DAYS), where.zone)
    grains = grains_within(where.zone, start, now, hours=True)
    return {
        "series": number,
        "starts": start,
        "zone": where.time_zone,
        "grain": HOUR if HOUR in grains else QUARTER,
        "tenants": where.tenants,
        "providers": where.providers,
        "models": where.models,
        "agents": where.agents,
        "operations": None if where.operations is None else [operation.value for operation in where.operations],
        "labels": {label.key: label.value for label in where.labels},
    }


def _filter(budget: Budget, end: datetime) -> CostFilter:
    scope = budget.scope
    tenants, providers, models, agents = (
        None if name is None else (name,) for name in (scope.tenant, scope.provider, scope.model, scope.agent)
    )
    labels = () if scope.label is None else (scope.label,)
    return CostFilter(budget.period_start, end, tenants, budget.time_zone, providers, models, agents, labels=labels)


def _course(history: _History, start: datetime, end: datetime, zone: ZoneInfo, now: datetime) -> _Course | None:
    today = now.astimezone(zone).date()
    past = sorted(day for day, usd in history.usd.items() if usd > 0 and day < today)
    midnights = [_midnight(today, zone), _midnight(today + timedelta(days=1), zone)]
    while midnights[-1] < end:
        midnights.append(_midnight(today + timedelta(days=len(midnights)), zone))
    elapsed = (now - midnights[0]) / (midnights[1] - midnights[0])
    spent_today = history.usd.get(today, ZERO)
    model = fit_days(_whole_days(history, past, today), float(spent_today), elapsed)
    if model is None:
        return None
    parts = [max(0.0, (min(end, after) - max(start, day)) / (after - day)) for day, after in pairwise(midnights)]
    left = midnights[1] - now
    parts[0] = max(0.0, (min(end, midnights[1]) - max(start, now)) / left) * _left_of_today(history, past, 1 - elapsed)
    return _Course(model, tuple(midnights[:-1]), tuple(parts), spent_today if start <= midnights[0] else ZERO)


def _whole_days(history: _History, past: Sequence[date], today: date) -> list[float]:
    """The days from the first spending to yesterday. The first day is not whole, so it is left out if there are enough others."""
    if not past:
        return []
    usd = [float(history.usd.get(past[0] + timedelta(days=number), ZERO)) for number in range((today - past[0]).days)]
    return usd[1:] if MIN_DAYS_FOR_LEVEL < len(usd) < HISTORY_DAYS else usd


def _left_of_today(history: _History, past: Sequence[date], left: float) -> float:
    """The part of a day's spending that usually comes after this time of day. `left` is the part of the day that is left."""
    if len(past) < MIN_DAYS_FOR_HOURS:
        return left
    usd = sum((history.usd[day] for day in past), start=ZERO)
    later = sum((history.later[day] for day in past), start=ZERO)
    return float(later / usd)


def _forecast(history: _History, where: CostFilter, spent: Decimal, now: datetime) -> CostForecast | None:
    """No bound is below what was already spent."""
    course = _course(history, where.start, where.end, where.zone, now)
    if course is None:
        return None
    days, rest, room = list[ForecastDay](), ZERO, 0.0
    for number, (midnight, expected) in enumerate(zip(course.midnights, course.model.days(course.parts), strict=True)):
        already = course.today if number == 0 else ZERO
        usd, error = _usd(expected.usd), _usd(Z * expected.error)
        days.append(ForecastDay(midnight, already + usd, already + max(ZERO, usd - error), already + usd + error))
        rest, room = rest + usd, Z * expected.error_so_far
    return CostForecast(
        now,
        spent + rest,
        spent + max(ZERO, rest - _usd(room)),
        spent + rest + _usd(room),
        course.model.method,
        tuple(days),
    )


def _usd(amount: float) -> Decimal:
    return Decimal(amount).quantize(_MILLIONTH)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
