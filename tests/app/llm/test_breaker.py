from __future__ import annotations

import itertools
from datetime import timedelta

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from app.llm.breaker import PROBE_LEASE_SECONDS, Breaker, BreakerState, BreakerStatus, Permit
from app.settings import BreakerSettings
from tests.clocks import ManualClock

FIVE = BreakerSettings(failures=5, probe_after=timedelta(seconds=60), window_min_calls=1_000)


class Bench:
    def __init__(self, settings: BreakerSettings = FIVE) -> None:
        self.clock = ManualClock()
        self.changes: list[BreakerState] = []
        self.breaker = Breaker(settings, self.clock, self.changes.append)

    def enter(self) -> Permit:
        permit = self.breaker.enter()
        assert permit is not None
        return permit

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.failed(self.enter())

    @property
    def statuses(self) -> list[str]:
        return [state.status.value for state in self.changes]


class TestOpening:
    def test_it_opens_after_five_failures_in_a_row(self) -> None:
        bench = Bench()
        bench.fail(4)
        assert bench.breaker.status is BreakerStatus.CLOSED
        bench.fail()
        state = bench.breaker.state
        assert (state.status, state.opened_count, state.consecutive_failures) == (BreakerStatus.OPEN, 1, 5)
        assert state.probe_at == bench.clock.now() + timedelta(seconds=60)
        assert bench.breaker.enter() is None

    def test_a_success_in_between_starts_the_count_again(self) -> None:
        bench = Bench()
        for _ in range(3):
            bench.fail(4)
            bench.breaker.succeeded(bench.enter())
        assert bench.breaker.status is BreakerStatus.CLOSED

    def test_it_opens_when_half_of_a_windows_calls_failed(self) -> None:
        bench = Bench(BreakerSettings(failure_rate=0.5, window_min_calls=20))
        for _ in range(10):
            bench.breaker.succeeded(bench.enter())
            bench.fail()
        assert bench.breaker.status is BreakerStatus.OPEN

    def test_failures_older_than_the_window_are_forgotten(self) -> None:
        bench = Bench(BreakerSettings(failure_rate=0.5, window_min_calls=20, window=timedelta(seconds=30)))
        for _ in range(9):
            bench.breaker.succeeded(bench.enter())
            bench.fail()
        bench.clock.move(31)
        for _ in range(4):
            bench.breaker.succeeded(bench.enter())
            bench.fail()
        assert bench.breaker.status is BreakerStatus.CLOSED

    def test_what_says_nothing_about_the_target_does_not_count(self) -> None:
        bench = Bench()
        for _ in range(100):
            bench.breaker.released(bench.enter())
        assert bench.changes == []


class TestProbing:
    def test_after_a_minute_exactly_one_probe_is_let_through(self) -> None:
        bench = Bench()
        bench.fail(5)
        bench.clock.move(59.9)
        assert bench.breaker.enter() is None
        bench.clock.move(0.1)
        assert bench.enter().probe
        assert [bench.breaker.enter() for _ in range(10)] == [None] * 10
        assert bench.breaker.state.probe_at is None

    def test_its_success_closes_and_its_failure_opens_again(self) -> None:
        bench = Bench()
        bench.fail(5)
        bench.clock.move(60)
        bench.fail()
        assert bench.breaker.enter() is None
        bench.clock.move(60)
        bench.breaker.succeeded(bench.enter())
        assert bench.statuses == ["OPEN", "HALF_OPEN", "OPEN", "HALF_OPEN", "CLOSED"]
        assert bench.breaker.state.opened_count == 2
        assert bench.breaker.state.consecutive_failures == 0

    def test_a_probe_that_says_nothing_leaves_the_next_one_to_try_at_once(self) -> None:
        bench = Bench()
        bench.fail(5)
        bench.clock.move(60)
        bench.breaker.released(bench.enter())
        assert bench.breaker.status is BreakerStatus.OPEN
        assert bench.enter().probe

    def test_a_probe_whose_owner_never_came_back_expires(self) -> None:
        bench = Bench()
        bench.fail(5)
        bench.clock.move(60)
        lost = bench.enter()
        bench.clock.move(PROBE_LEASE_SECONDS)
        assert bench.enter().probe
        bench.breaker.succeeded(lost)
        assert bench.breaker.status is BreakerStatus.HALF_OPEN

    def test_calls_from_before_it_opened_say_nothing_about_now(self) -> None:
        bench = Bench()
        early = [bench.enter() for _ in range(10)]
        bench.fail(5)
        for permit in early:
            bench.breaker.succeeded(permit)
        assert bench.breaker.status is BreakerStatus.OPEN


class TestReset:
    def test_closing_by_hand_lets_calls_through_and_forgets_the_failures(self) -> None:
        bench = Bench()
        bench.fail(5)
        bench.breaker.close()
        bench.fail(4)
        assert bench.breaker.status is BreakerStatus.CLOSED
        assert bench.breaker.state.opened_count == 1


class BreakerMachine(RuleBasedStateMachine):
    """Any interleaving of calls, outcomes and time against a model that knows only counts."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.changes: list[BreakerState] = []
        self.breaker = Breaker(FIVE, self.clock, self.changes.append)
        self.in_a_row = 0
        self.shut_until: float | None = None
        self.probe: Permit | None = None
        self.valid: list[Permit] = []

    @rule(target=permits)
    def enter(self) -> Permit | None:
        now = self.clock.monotonic()
        permit = self.breaker.enter()
        assert (permit is None) == (self.shut_until is not None and now < self.shut_until)
        if permit is not None and self.shut_until is not None:
            assert permit.probe
            self.probe, self.shut_until = permit, now + PROBE_LEASE_SECONDS
        elif permit is not None:
            self.valid.append(permit)
        return permit

    @rule(permit=consumes(permits))
    def succeed(self, permit: Permit | None) -> None:
        if permit is not None:
            current = self.is_current(permit)
            self.breaker.succeeded(permit)
            if current:
                self.in_a_row, self.shut_until, self.probe = 0, None, None

    @rule(permit=consumes(permits))
    def fail(self, permit: Permit | None) -> None:
        if permit is None:
            return
        current = self.is_current(permit)
        self.breaker.failed(permit)
        if current:
            self.in_a_row += 1
            if permit.probe or self.in_a_row >= 5:
                self.valid.clear()
                self.shut_until, self.probe = self.clock.monotonic() + 60, None

    @rule(permit=consumes(permits))
    def release(self, permit: Permit | None) -> None:
        if permit is not None:
            self.breaker.released(permit)
            if self.is_current(permit) and permit.probe:
                self.shut_until, self.probe = self.clock.monotonic(), None

    @rule(seconds=st.floats(0.1, 100))
    def pass_time(self, seconds: float) -> None:
        self.clock.move(seconds)

    @rule()
    def reset(self) -> None:
        self.breaker.close()
        self.in_a_row, self.shut_until, self.probe = 0, None, None

    def is_current(self, permit: Permit) -> bool:
        """Given in the state that still holds: the probe under way, or one from since it last closed."""
        return permit is self.probe or any(permit is valid for valid in self.valid)

    @invariant()
    def it_is_shut_exactly_when_the_model_says_so(self) -> None:
        assert (self.breaker.status is BreakerStatus.CLOSED) == (self.shut_until is None)
        assert (self.breaker.status is BreakerStatus.HALF_OPEN) == (self.probe is not None)

    @invariant()
    def only_the_three_moves_of_a_breaker_happen(self) -> None:
        order = [BreakerStatus.CLOSED] + [state.status for state in self.changes]
        allowed = {("CLOSED", "OPEN"), ("OPEN", "HALF_OPEN"), ("HALF_OPEN", "OPEN"), ("HALF_OPEN", "CLOSED")}
        by_hand_or_lost = {("OPEN", "CLOSED"), ("HALF_OPEN", "HALF_OPEN")}
        assert {(a.value, b.value) for a, b in itertools.pairwise(order)} <= allowed | by_hand_or_lost


TestAnyInterleaving = BreakerMachine.TestCase
TestAnyInterleaving.settings = hypothesis_settings(max_examples=200, stateful_step_count=60, deadline=None)
