from __future__ import annotations

import random
from math import isfinite
from statistics import fmean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.costs.daily_model import DailyModel, fit_days
from benchmarks.forecast import DAYS, Series, back_test, growing, services, sporadic, weekly_and_growing

WEEKDAYS_ONLY = [100.0, 110.0, 90.0, 100.0, 100.0, 0.0, 0.0]
amounts = st.floats(0, 1e9, allow_subnormal=False)


def fitted(history: list[float], so_far: float = 0.0, elapsed: float = 0.0) -> DailyModel:
    model = fit_days(history, so_far, elapsed)
    assert model is not None
    return model


class TestWhatTheHistoryCarries:
    def test_nothing_spent_says_nothing(self) -> None:
        assert fit_days([], 0.0, 0.5) is None

    def test_half_a_day_makes_a_straight_line(self) -> None:
        model = fitted([], so_far=5.0, elapsed=0.5)
        assert model.method.startswith("Straight line")
        assert model.expected([0.5, 1.0]) == [5.0, 10.0]

    def test_a_few_days_make_a_mean(self) -> None:
        model = fitted([8.0, 10.0, 12.0, 10.0])
        assert model.method == "Mean of 4 days; too few for a trend or a weekday pattern."
        assert model.expected([1.0, 1.0]) == [10.0, 10.0]

    def test_two_weeks_make_a_trend_and_no_pattern(self) -> None:
        model = fitted([10.0 + day for day in range(15)])
        assert model.method == "Level and trend; too few days for a weekday pattern, from 15 days."
        assert model.expected([1.0])[0] > 18

    def test_weekends_are_expected_to_be_as_they_were(self) -> None:
        model = fitted(WEEKDAYS_ONLY * 8)
        assert model.method == "Level, trend and weekday pattern, from 56 days."
        days = model.expected([1.0] * 14)
        assert sum(days) == pytest.approx(1000, rel=0.03)
        assert max(days[5], days[6], days[12], days[13]) < 5

    def test_the_pattern_stays_with_its_weekday_when_the_history_ends_in_the_week(self) -> None:
        days = fitted((WEEKDAYS_ONLY * 8)[:-4]).expected([1.0] * 7)
        assert [day < 10 for day in days] == [False, False, True, True, False, False, False]

    def test_without_a_pattern_none_is_made_up(self) -> None:
        model = fitted([100.0, 101.0, 99.0] * 18)
        assert "without a weekday pattern" in model.method
        assert model.expected([1.0] * 10) == pytest.approx([100.0] * 10, rel=0.02)

    def test_steady_growth_goes_on(self) -> None:
        days = fitted([10.0 + day for day in range(56)]).expected([1.0] * 10)
        assert days == pytest.approx([66.0 + day for day in range(10)], rel=0.02)

    def test_chance_is_not_taken_for_growth(self) -> None:
        growth = []
        for seed in range(30):
            chance = random.Random(seed)
            days = fitted([chance.lognormvariate(0, 0.5) for _ in range(56)]).expected([1.0] * 30)
            growth.append(abs(days[-1] / days[0] - 1))
        assert median(growth) < 0.05

    def test_a_new_level_is_learnt(self) -> None:
        assert fitted([100.0] * 30 + [300.0] * 20).expected([1.0])[0] == pytest.approx(300, rel=0.1)


class TestLowAndHigh:
    @pytest.mark.parametrize("made", [growing, weekly_and_growing, sporadic, services])
    def test_hold_about_eighty_of_a_hundred_outcomes(self, made: Series) -> None:
        inside = []
        for seed in range(100, 104):
            chance = random.Random(seed)
            inside += back_test([made(day, chance) for day in range(DAYS)]).inside
        assert 0.65 <= fmean(inside) <= 0.95

    def test_are_wider_where_the_past_weeks_would_have_been_missed(self) -> None:
        steady = [100.0, 104.0, 96.0, 101.0, 99.0, 103.0, 97.0] * 8
        surprised = steady[:42] + [1.5 * usd for usd in steady[42:]]
        rooms = [fitted(history).days([1.0] * 14)[-1].error_so_far for history in (steady, surprised)]
        assert rooms[1] > 3 * rooms[0]

    def test_follow_from_the_model_alone_where_there_is_no_past_to_be_held_against(self) -> None:
        days = fitted([8.0, 10.0, 12.0, 10.0]).days([1.0])
        assert days[0].error == pytest.approx(1.6330 * 1.25**0.5, rel=0.001)


class TestDays:
    def test_part_of_a_day_counts_in_part(self) -> None:
        model = fitted([10.0] * 20)
        assert model.expected([0.25, 1.0]) == pytest.approx([2.5, 10.0])

    def test_the_further_the_less_certain(self) -> None:
        days = fitted([8.0, 12.0, 9.0, 11.0, 13.0, 7.0, 10.0] * 6).days([1.0] * 30)
        errors = [day.error_so_far for day in days]
        assert errors == sorted(errors)
        assert 0 < days[0].error < days[-1].error

    def test_the_same_history_says_the_same(self) -> None:
        assert fitted(WEEKDAYS_ONLY * 5).days([1.0] * 9) == fitted(WEEKDAYS_ONLY * 5).days([1.0] * 9)

    def test_the_first_minutes_of_all_are_not_taken_for_a_day(self) -> None:
        model = fit_days([], 2.0, 1e-308)
        assert model is not None
        assert model.expected([1.0]) == [48.0]

    @given(st.lists(amounts, max_size=56), amounts, st.floats(0, 1), st.lists(st.floats(0, 1), min_size=1, max_size=40))
    def test_no_history_expects_less_than_nothing(
        self, history: list[float], so_far: float, elapsed: float, parts: list[float]
    ) -> None:
        model = fit_days(history, so_far, elapsed)
        if model is None:
            assert sum(history) + so_far == 0
            return
        days = model.days(parts)
        assert [day.usd for day in days] == model.expected(parts)
        assert all(day.usd >= 0 and day.error >= 0 and isfinite(day.usd) and isfinite(day.error_so_far) for day in days)
