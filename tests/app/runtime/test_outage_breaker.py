"""A breaker for a server that is away."""

from __future__ import annotations

from app.runtime.outage_breaker import OutageBreaker
from tests.clocks import ManualClock


def _fails(breaker: OutageBreaker, times: int) -> list[bool]:
    return [breaker.failed() for _ in range(times)]


def test_calls_are_refused_after_three_failures_in_a_row() -> None:
    breaker = OutageBreaker(ManualClock(), first_pause=1, max_pause=3)
    assert _fails(breaker, 2) == [False, False]
    assert not breaker.succeeded()
    assert _fails(breaker, 2) == [False, False]
    assert breaker.admit()
    assert _fails(breaker, 2) == [True, False]
    assert not breaker.available
    assert not breaker.admit()


def test_one_call_per_pause_is_tried_and_the_pause_doubles_to_its_maximum() -> None:
    clock = ManualClock()
    breaker = OutageBreaker(clock, first_pause=1, max_pause=3)
    _fails(breaker, 3)
    for pause in (1, 2, 3, 3):
        clock.move(pause - 0.1)
        assert not breaker.admit()
        clock.move(0.2)
        assert breaker.available
        assert breaker.admit()
        assert not breaker.admit()
        assert not breaker.failed()


def test_a_success_ends_the_outage_and_the_next_pause_is_short_again() -> None:
    clock = ManualClock()
    breaker = OutageBreaker(clock, first_pause=1, max_pause=3)
    _fails(breaker, 5)
    assert breaker.succeeded()
    assert breaker.admit()
    assert _fails(breaker, 3) == [False, False, True]
    clock.move(1.1)
    assert breaker.admit()
