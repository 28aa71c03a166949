"""The expected spending by day, from a history: a level with a damped trend and a weekday pattern, as far as the history
supports them.

The error range is measured. The model is fitted to the same history as it was one, two and more weeks ago, and its forecasts
are compared with what was then spent. docs/forecast.md explains the method. Expectations are floats; money outside this module
stays Decimal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from math import hypot, sqrt
from statistics import fmean, quantiles, stdev
from typing import NamedTuple

WEEK = 7
MIN_ELAPSED = 1 / 24
"""The shortest part of a first day: spending in its first minutes says nothing about the whole day."""
MIN_DAYS_FOR_LEVEL = 3
MIN_DAYS_FOR_TREND = 2 * WEEK
MIN_DAYS_FOR_PATTERN = 3 * WEEK
MIN_SCORES = 5
"""How many sums of past days must be compared before the measured error is used."""
DAMPING = 0.98
MIN_CERTAINTY = 3.0
"""A line through the history counts only if its slope is this many times its standard error."""
Z = 1.2816
"""80 of 100 outcomes of a normal distribution lie within this many standard deviations of the mean."""

_GAINS = tuple(product((0.05, 0.1, 0.2, 0.4), (0.0, 0.05)))
_PATTERN_MUST_GAIN = 0.9
_LINE_MUST_GAIN = 0.95
_MIN_SHARE = 0.2
_MIN_SCALE, _MAX_SCALE = 0.25, 4.0
_FLAT = (1.0,) * WEEK


@dataclass(frozen=True, slots=True)
class Expectation:
    """The expectation for one day. `error` is the standard deviation of the day, `error_so_far` that of the sum of all days up
    to it."""

    usd: float
    error: float
    error_so_far: float


@dataclass(frozen=True, slots=True)
class _Fit:
    """`level` and `trend` are US dollars per day after the last day of history. `pattern` has one factor for each day of a week
    that starts with the history's first day."""

    level: float
    trend: float
    pattern: tuple[float, ...]
    gain: float
    trend_gain: float
    error: float
    misses: float


class _Start(NamedTuple):
    """Values before the first day of history. `damping` is applied to the trend while it is smoothed."""

    level: float
    trend: float
    damping: float


@dataclass(frozen=True, slots=True)
class DailyModel:
    """A history of whole days, beginning with the first spending, and what it says about the days after it."""

    method: str
    _fit: _Fit
    _history: Sequence[float]

    def expected(self, parts: Sequence[float]) -> list[float]:
        """Returns the expected spending of the next days in order. Only the given part (0 to 1) of each day counts."""
        drift = _drift(len(parts))
        return [
            max(0.0, self._fit.level + self._fit.trend * drift[ahead + 1]) * self._share(ahead) * part
            for ahead, part in enumerate(parts)
        ]

    def days(self, parts: Sequence[float]) -> list[Expectation]:
        """Returns the model's errors, scaled by how large the errors of the past weeks were compared with the model's."""
        scale = self._scale(len(parts))
        return [Expectation(day.usd, scale * day.error, scale * day.error_so_far) for day in self._days(parts)]

    def _scale(self, ahead: int) -> float:
        """Uses sums over at least half as many days as the forecast has, because errors grow with the number of days."""
        errors = [day.error_so_far for day in self._days([1.0] * len(self._history))]
        scores = list[float]()
        for known in range(len(self._history) - WEEK, MIN_DAYS_FOR_TREND - 1, -WEEK):
            came = self._history[known:]
            said = _fit_days(self._history[:known]).expected([1.0] * len(came))
            misses = [abs(missed) for missed in accumulate(usd - other for usd, other in zip(came, said, strict=True))]
            first = max(1, min(ahead, len(came)) // 2) - 1
            scores += [miss / error for miss, error in zip(misses[first:], errors[first : len(came)], strict=True) if error > 0]
        if len(scores) < MIN_SCORES:
            return 1.0
        return min(max(quantiles(scores, n=5, method="inclusive")[-1] / Z, _MIN_SCALE), _MAX_SCALE)

    def _days(self, parts: Sequence[float]) -> list[Expectation]:
        """An error of one day also changes every later day, as far as level and trend would learn from it."""
        fit, drift, found = self._fit, _drift(len(parts)), list[Expectation]()
        weights = [self._share(ahead) * part for ahead, part in enumerate(parts)]
        noises = [fit.error * _noise(self._share(ahead)) for ahead in range(len(parts))]
        taught = [noise * self._share(ahead) * fit.gain / _square_mean(fit.pattern) for ahead, noise in enumerate(noises)]
        sums = [noise * part for noise, part in zip(noises, parts, strict=True)]
        for day, usd in enumerate(self.expected(parts)):
            learnt = [weights[day] * taught[past] * (1 + fit.trend_gain * drift[day - past]) for past in range(day)]
            for past, error in enumerate(learnt):
                sums[past] += error
            found.append(Expectation(usd, hypot(noises[day] * parts[day], *learnt), hypot(*sums[: day + 1])))
        return found

    def _share(self, ahead: int) -> float:
        return self._fit.pattern[(len(self._history) + ahead) % WEEK]


def _drift(days: int) -> list[float]:
    """The sum of the damped trend after each number of days."""
    return list(accumulate((DAMPING**ahead for ahead in range(1, days + 1)), initial=0.0))


def fit_days(history: Sequence[float], so_far: float, elapsed: float) -> DailyModel | None:
    """`history` holds whole days from the first spending on, oldest first. `so_far` was spent in the `elapsed` part (0 to 1) of
    the day after them. None if nothing was ever spent."""
    if len(history) < MIN_DAYS_FOR_LEVEL:
        return _straight_line(history, so_far, elapsed)
    return _fit_days(history)


def _fit_days(history: Sequence[float]) -> DailyModel:
    if len(history) < MIN_DAYS_FOR_TREND:
        level = fmean(history)
        error = max(stdev(history), 0.1 * level) * sqrt(1 + 1 / len(history))
        fit = _Fit(level, 0.0, _FLAT, 1 / len(history), 0.0, error, error)
        return DailyModel(f"Mean of {len(history)} days; too few for a trend or a weekday pattern.", fit, history)
    fit = _smooth(history, _FLAT)
    words = "Level and trend"
    if len(history) >= MIN_DAYS_FOR_PATTERN:
        patterned = _smooth(history, _pattern(history))
        if patterned.misses < _PATTERN_MUST_GAIN * fit.misses:
            fit, words = patterned, "Level, trend and weekday pattern"
        else:
            words += " without a weekday pattern, because there is none"
    else:
        words += "; too few days for a weekday pattern"
    return DailyModel(f"{words}, from {len(history)} days.", fit, history)


def _straight_line(history: Sequence[float], so_far: float, elapsed: float) -> DailyModel | None:
    spent, days = sum(history) + so_far, max(len(history) + elapsed, MIN_ELAPSED)
    if spent <= 0:
        return None
    level = spent / days
    fit = _Fit(level, 0.0, _FLAT, 1.0, 0.0, level / 2, 0.0)
    return DailyModel("Straight line: there are fewer than three whole days of history.", fit, ())


def _smooth(history: Sequence[float], pattern: tuple[float, ...]) -> _Fit:
    """The best of several smoothing factors, starting from the first week's mean without a trend, or from a line through all
    days."""
    level, slope = _line(history, pattern)
    starts = _Start(fmean(history[:WEEK]) / fmean(pattern[:WEEK]), 0.0, DAMPING), _Start(level, slope, 1.0)
    plain, lined = (min((_run(history, pattern, start, *gains) for gains in _GAINS), key=_misses) for start in starts)
    return lined if lined.misses < _LINE_MUST_GAIN * plain.misses else plain


def _run(
    history: Sequence[float],
    pattern: tuple[float, ...],
    start: _Start,
    gain: float,
    trend_gain: float,
) -> _Fit:
    """Smooths once through the history. A day's influence is proportional to its part of the week."""
    level, trend, damping = start
    learnt = gain / _square_mean(pattern)
    squares = misses = 0.0
    for day, usd in enumerate(history):
        share = pattern[day % WEEK]
        level += trend
        surprise = usd - level * share
        step = learnt * surprise * share
        level += step
        trend = damping * (trend + trend_gain * step)
        if day >= WEEK:
            misses += abs(surprise)
            squares += (surprise / _noise(share)) ** 2
    seen = len(history) - WEEK
    return _Fit(level, trend / damping, pattern, gain, trend_gain, sqrt(squares / max(1, seen - 2)), misses / seen)


def _line(history: Sequence[float], pattern: tuple[float, ...]) -> tuple[float, float]:
    """Level before the first day, and slope, of the least-squares line. An uncertain slope is pulled towards 0."""
    days = len(history)
    shares = [pattern[day % WEEK] for day in range(days)]
    weight = sum(share * share for share in shares)
    centre = sum(share * share * (day + 1) for day, share in enumerate(shares)) / weight
    spread = sum((share * (day + 1 - centre)) ** 2 for day, share in enumerate(shares))
    level = sum(share * usd for share, usd in zip(shares, history, strict=True)) / weight
    slope = sum(share * (day + 1 - centre) * usd for day, (share, usd) in enumerate(zip(shares, history, strict=True))) / spread
    squares = sum(
        (usd - share * (level + slope * (day + 1 - centre))) ** 2
        for day, (share, usd) in enumerate(zip(shares, history, strict=True))
    )
    certainty = slope * slope * spread * (days - 2)
    if certainty <= 0:
        return level, 0.0
    slope *= max(0.0, 1 - MIN_CERTAINTY**2 * squares / certainty)
    return level - slope * centre, slope


def _pattern(history: Sequence[float]) -> tuple[float, ...]:
    """Each weekday's usual factor, 1 on average. With few weeks it is pulled towards 1."""
    weeks = len(history) // WEEK
    parts: list[list[float]] = [[] for _ in range(WEEK)]
    for week in range(weeks):
        start = len(history) - (weeks - week) * WEEK
        mean = fmean(history[start : start + WEEK])
        if mean > 0:
            for day in range(start, start + WEEK):
                parts[day % WEEK].append(history[day] / mean)
    if not parts[0]:
        return _FLAT
    usual = [_middle(part) for part in parts]
    total = sum(usual)
    if total <= 0:
        return _FLAT
    trust = weeks * weeks / (weeks * weeks + 2)
    return tuple(1 + trust * (part * WEEK / total - 1) for part in usual)


def _middle(values: Sequence[float]) -> float:
    """The mean of the middle half of the values."""
    cut = len(values) // 4
    return fmean(sorted(values)[cut : len(values) - cut])


def _misses(fit: _Fit) -> float:
    return fit.misses


def _noise(share: float) -> float:
    """A day's uncertainty, relative to an average day."""
    return max(share, _MIN_SHARE)


def _square_mean(pattern: Sequence[float]) -> float:
    return fmean(part * part for part in pattern)
