from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.allowance import AllowanceExceeded, Allowances
from tests.clocks import ManualClock

ONE, TWO = UUID(int=1), UUID(int=2)


class TestAllowances:
    def test_points_come_back_with_time_up_to_the_capacity(self) -> None:
        clock = ManualClock()
        allowances = Allowances(100, 10.0, clock)
        assert allowances.take(ONE, 100).remaining == 0
        with pytest.raises(AllowanceExceeded) as refused:
            allowances.take(ONE, 50)
        assert (refused.value.had, refused.value.allowed, refused.value.retry_after_seconds) == (50, 0, 5.0)
        clock.move(5)
        assert allowances.take(ONE, 50).remaining == 0
        clock.move(1000)
        assert allowances.take(ONE, 1).remaining == 99

    def test_each_key_has_its_own(self) -> None:
        allowances = Allowances(10, 1.0, ManualClock())
        allowances.take(ONE, 10)
        assert allowances.take(TWO, 10).remaining == 0

    def test_what_was_not_used_is_given_back(self) -> None:
        allowances = Allowances(10, 1.0, ManualClock())
        allowances.take(ONE, 8)
        assert allowances.give_back(ONE, 5).remaining == 7
        assert allowances.give_back(ONE, 50).remaining == 10

    def test_a_document_more_expensive_than_the_bucket_takes_all_of_a_full_one(self) -> None:
        allowances = Allowances(10, 1.0, ManualClock())
        assert allowances.take(ONE, 25).remaining == 0
        with pytest.raises(AllowanceExceeded):
            allowances.take(ONE, 25)

    @given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 20)), max_size=30))
    def test_never_more_than_the_rate_allows(self, steps: list[tuple[int, float]]) -> None:
        clock = ManualClock()
        allowances = Allowances(20, 2.0, clock)
        taken, passed = 0, 0.0
        for points, wait in steps:
            clock.move(wait)
            passed += wait
            try:
                allowances.take(ONE, points)
            except AllowanceExceeded:
                continue
            taken += min(20, points)
            assert taken <= 20 + passed * 2.0 + 1e-6
