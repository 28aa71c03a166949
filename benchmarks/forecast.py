"""Back-tests the forecast: what it said on several days of past months about each month's spending, next to a straight line.

The straight line is what dashboards usually draw: spent so far, divided by the time elapsed, times the month. Series are made
from a fixed seed; `services` is shaped like a real platform's bill: growth, weekends, public holidays, a launch, an outage, batch
jobs at the month's end, and heavy-tailed noise. Run: python -m benchmarks.forecast
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from math import sin
from statistics import fmean

from app.costs.daily_model import Z, fit_days

DAYS, MONTH, HISTORY = 240, 30, 56
ASKED_ON = (3, 7, 14, 21)
WEEKEND = (1.25, 1.3, 1.3, 1.25, 1.2, 0.35, 0.35)
HOLIDAYS = frozenset({40, 75, 110, 111, 160, 205, 206})

Series = Callable[[int, random.Random], float]


def flat(_day: int, chance: random.Random) -> float:
    return 100 * chance.lognormvariate(0, 0.1)


def growing(day: int, chance: random.Random) -> float:
    return 50 * 1.01**day * chance.lognormvariate(0, 0.1)


def weekly(day: int, chance: random.Random) -> float:
    return 100 * WEEKEND[day % 7] * chance.lognormvariate(0, 0.15)


def weekly_and_growing(day: int, chance: random.Random) -> float:
    return (60 + day) * WEEKEND[day % 7] * chance.lognormvariate(0, 0.15)


def stepping(day: int, chance: random.Random) -> float:
    return (100 if day < 130 else 250) * WEEKEND[day % 7] * chance.lognormvariate(0, 0.1)


def sporadic(_day: int, chance: random.Random) -> float:
    return 300 * chance.lognormvariate(0, 0.7) if chance.random() < 0.3 else 0.0


def spiking(day: int, chance: random.Random) -> float:
    return weekly(day, chance) + (900 if chance.random() < 0.02 else 0)


def services(day: int, chance: random.Random) -> float:
    usd = 80 * 1.004**day * WEEKEND[day % 7] * (1 + 0.1 * sin(day / 25))
    if day in HOLIDAYS:
        usd *= 0.4
    if day >= 145:
        usd += 60 * (1 - 0.97 ** (day - 145)) * WEEKEND[day % 7]
    if day in {98, 188}:
        usd *= 0.15
    if day % MONTH >= MONTH - 2:
        usd += 70
    return usd * chance.lognormvariate(0, 0.12) * (1.8 if chance.random() < 0.02 else 1)


@dataclass
class Score:
    """Misses in parts of the month's true total; `inside` counts true totals between low and high."""

    ours: list[float] = field(default_factory=list)
    line: list[float] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)


def back_test(usd: list[float]) -> Score:
    score = Score()
    for start in range(2 * MONTH, DAYS, MONTH):
        total = sum(usd[start : start + MONTH])
        for asked in ASKED_ON:
            spent, left = sum(usd[start : start + asked]), MONTH - asked
            model = fit_days(usd[max(0, start + asked - HISTORY) : start + asked], 0.0, 0.0)
            if model is None or total == 0:
                continue
            days = model.days([1.0] * left)
            rest, room = sum(day.usd for day in days), Z * days[-1].error_so_far
            score.ours.append(abs(spent + rest - total) / total)
            score.line.append(abs(spent / asked * MONTH - total) / total)
            score.inside.append(abs(spent + rest - total) <= room)
    return score


def main() -> int:
    print(f"{'series':20} {'forecast':>9} {'straight line':>14} {'ratio':>6} {'inside low-high':>16}")
    ratios = []
    for made in (flat, growing, weekly, weekly_and_growing, stepping, sporadic, spiking, services):
        score = Score()
        for seed in range(10):
            chance = random.Random(seed)
            each = back_test([made(day, chance) for day in range(DAYS)])
            score.ours += each.ours
            score.line += each.line
            score.inside += each.inside
        ours, line = fmean(score.ours), fmean(score.line)
        ratios.append(ours / line)
        print(f"{made.__name__:20} {ours:9.1%} {line:14.1%} {ours / line:6.2f} {fmean(score.inside):16.0%}")
    print(f"mean ratio {fmean(ratios):.2f}; low and high should hold 80 % of the true totals")
    return 0


if __name__ == "__main__":
    sys.exit(main())
