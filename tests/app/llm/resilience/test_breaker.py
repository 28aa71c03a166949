from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from app.llm.resilience.breaker import PROBE_LEASE_SECONDS, Breaker, BreakerState, BreakerStatus, Permit
from app.settings import BreakerSettings
from tests.clocks import ManualClock

FIVE = BreakerSettings(failures=5, probe_after=timedelta(seconds=60), window_min_calls=1_000)


class Bench:
    def __init__(self, settings: BreakerSettings = FIVE) -> None:
        self.clock = ManualClock()
        self.changes: list[BreakerState] = []
        self.breaker = Breaker(settings, self.clock, self.changes.append)

    def enter(self, earlier: Permit | None = None) -> Permit:
        permit = self.breaker.enter(earlier)
        assert permit is not None
        return permit

    def fail(self, times: int = 1, *, prompt: int | None = None) -> None:
        for _ in range(times):
            self.breaker.failed(self.enter(), prompt)

    def fail_one_call(self, tries: int) -> None:
        permit: Permit | None = None
        for _ in range(tries):
            permit = self.enter(permit)
            self.breaker.failed(permit)

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


class TestFirstTokens:
    def stream(self, bench: Bench) -> Permit:
        permit = bench.enter()
        bench.breaker.alive(permit)
        return permit

    def test_failures_between_the_first_tokens_of_long_streams_are_no_row(self) -> None:
        bench = Bench()
        running = []
        for _ in range(50):
            running.append(self.stream(bench))
            bench.fail(4)
        assert bench.breaker.status is BreakerStatus.CLOSED
        assert bench.breaker.state.consecutive_failures == 4

    def test_a_fifth_of_many_long_streams_may_be_cut(self) -> None:
        bench = Bench(BreakerSettings(failures=5, failure_rate=0.5, window_min_calls=20))
        running = [self.stream(bench) for _ in range(500)]
        for cut in running[::5]:
            bench.breaker.failed(cut)
        assert bench.breaker.status is BreakerStatus.CLOSED

    def test_the_calls_that_fail_while_older_streams_go_on_are_a_row(self) -> None:
        bench = Bench()
        older = [self.stream(bench) for _ in range(50)]
        bench.fail(5)
        for permit in older:
            bench.breaker.succeeded(permit)
        assert bench.breaker.status is BreakerStatus.OPEN

    def test_one_after_the_other_cut_is_a_row(self) -> None:
        bench = Bench()
        for _ in range(5):
            bench.breaker.failed(self.stream(bench))
        assert bench.breaker.status is BreakerStatus.OPEN

    def test_all_cut_at_once_are_a_row(self) -> None:
        bench = Bench()
        for permit in [self.stream(bench) for _ in range(5)]:
            bench.breaker.failed(permit)
        assert bench.breaker.status is BreakerStatus.OPEN

    def test_a_whole_answer_ends_the_row_also_of_streams_that_were_cut(self) -> None:
        bench = Bench()
        whole, *cut = [self.stream(bench) for _ in range(6)]
        for permit in cut[:4]:
            bench.breaker.failed(permit)
        bench.breaker.succeeded(whole)
        bench.breaker.failed(cut[4])
        assert bench.breaker.status is BreakerStatus.CLOSED

    def test_streams_cut_after_the_windows_length_are_failures_of_the_window(self) -> None:
        bench = Bench(BreakerSettings(failures=100, failure_rate=0.5, window_min_calls=20, window=timedelta(seconds=30)))
        running = [self.stream(bench) for _ in range(20)]
        bench.clock.move(40)
        for permit in running:
            bench.breaker.failed(permit)
        assert bench.breaker.status is BreakerStatus.OPEN


class TestTrial:
    """After the first token of a probe's stream."""

    def closed_by_a_first_token(self) -> tuple[Bench, Permit]:
        bench = Bench()
        bench.fail(5)
        bench.clock.move(60)
        probe = bench.enter()
        bench.breaker.alive(probe)
        return bench, probe

    def test_the_others_need_not_wait_for_the_end_of_a_long_answer(self) -> None:
        bench, _ = self.closed_by_a_first_token()
        assert bench.statuses == ["OPEN", "HALF_OPEN", "CLOSED"]
        assert not bench.enter().probe

    def test_a_probe_that_is_cut_after_all_opens_it_again_at_once(self) -> None:
        bench, probe = self.closed_by_a_first_token()
        bench.breaker.failed(probe)
        assert bench.statuses == ["OPEN", "HALF_OPEN", "CLOSED", "OPEN"]
        assert bench.breaker.enter() is None

    def test_and_so_do_all_streams_since_then(self) -> None:
        bench, probe = self.closed_by_a_first_token()
        other = bench.enter()
        bench.breaker.alive(other)
        bench.breaker.failed(probe)
        before = bench.breaker.status
        bench.breaker.failed(other)
        assert [before, bench.breaker.status] == [BreakerStatus.CLOSED, BreakerStatus.OPEN]

    def test_a_whole_answer_ends_it(self) -> None:
        bench, probe = self.closed_by_a_first_token()
        bench.breaker.succeeded(probe)
        bench.fail(4)
        assert bench.breaker.status is BreakerStatus.CLOSED

    def test_a_probe_whose_caller_left_after_it_keeps_it_closed(self) -> None:
        bench, probe = self.closed_by_a_first_token()
        bench.breaker.released(probe)
        assert bench.breaker.status is BreakerStatus.CLOSED


class TestReset:
    def test_closing_by_hand_lets_calls_through_and_forgets_the_failures(self) -> None:
        bench = Bench()
        bench.fail(5)
        bench.breaker.close()
        bench.fail(4)
        assert bench.breaker.status is BreakerStatus.CLOSED
        assert bench.breaker.state.opened_count == 1


@dataclass(eq=False)
class _Mark:
    failed: bool


class BreakerMachine(RuleBasedStateMachine):
    """Any interleaving of calls, further tries, first tokens, outcomes and time against a model that keeps a list of what was
    shown: for each call that said something, whether it failed. Five failures at its end open it."""

    permits = Bundle("permits")
    failed = Bundle("failed")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.changes: list[BreakerState] = []
        self.breaker = Breaker(FIVE, self.clock, self.changes.append)
        self.shown: list[_Mark] = []
        self.mark: dict[Permit, _Mark] = {}
        self.shut_until: float | None = None
        self.probe: Permit | None = None
        self.valid: list[Permit] = []

    @rule(target=permits)
    def enter(self) -> Permit | None:
        return self.enter_after(None)

    @rule(target=permits, earlier=consumes(failed))
    def try_again(self, earlier: Permit | None) -> Permit | None:
        return self.enter_after(earlier)

    def enter_after(self, earlier: Permit | None) -> Permit | None:
        now = self.clock.monotonic()
        permit = self.breaker.enter(earlier)
        assert (permit is None) == (self.shut_until is not None and now < self.shut_until)
        if permit is not None and self.shut_until is not None:
            assert permit.probe
            self.probe, self.shut_until = permit, now + PROBE_LEASE_SECONDS
        elif permit is not None:
            self.valid.append(permit)
            if earlier is not None and earlier in self.mark:
                self.mark[permit] = self.mark[earlier]
        return permit

    @rule(permit=permits)
    def first_token(self, permit: Permit | None) -> None:
        if permit is None:
            return
        current, was_probe = self.is_current(permit), permit is self.probe
        self.breaker.alive(permit)
        if was_probe:
            self.close()
            self.shown = [_Mark(failed=True) for _ in range(4)]
            self.valid.append(permit)
        if current and (permit not in self.mark or self.mark[permit].failed):
            self.take_back(permit)
            self.mark[permit] = self.show(failed=False)

    @rule(permit=consumes(permits))
    def succeed(self, permit: Permit | None) -> None:
        if permit is None:
            return
        current, was_probe = self.is_current(permit), permit is self.probe
        self.breaker.succeeded(permit)
        if was_probe:
            self.close()
        elif current:
            if permit in self.mark and self.mark[permit].failed:
                self.take_back(permit)
            self.show(failed=False)
        self.forget(permit)

    @rule(target=failed, permit=consumes(permits))
    def fail(self, permit: Permit | None) -> Permit | None:
        if permit is None:
            return None
        current, was_probe = self.is_current(permit), permit is self.probe
        self.breaker.failed(permit)
        if current and permit in self.mark:
            self.mark[permit].failed = True
        elif current:
            self.mark[permit] = self.show(failed=True)
        if current and (was_probe or [mark.failed for mark in self.shown[-5:]] == [True] * 5):
            self.valid.clear()
            self.mark.clear()
            self.shut_until, self.probe = self.clock.monotonic() + 60, None
        self.valid = [valid for valid in self.valid if valid is not permit]
        return permit

    @rule(permit=consumes(permits))
    def release(self, permit: Permit | None) -> None:
        if permit is None:
            return
        was_probe = permit is self.probe
        self.breaker.released(permit)
        if was_probe:
            self.shut_until, self.probe = self.clock.monotonic(), None
        self.forget(permit)

    @rule(seconds=st.floats(0.1, 100))
    def pass_time(self, seconds: float) -> None:
        self.clock.move(seconds)

    @rule()
    def reset(self) -> None:
        was_shut = self.shut_until is not None
        self.breaker.close()
        valid, mark = self.valid, self.mark
        self.close()
        if not was_shut:
            self.valid, self.mark = valid, mark

    def close(self) -> None:
        self.shown, self.mark, self.valid = [], {}, []
        self.shut_until, self.probe = None, None

    def show(self, *, failed: bool) -> _Mark:
        mark = _Mark(failed)
        self.shown = [*self.shown, mark][-5:]
        return mark

    def take_back(self, permit: Permit) -> None:
        self.shown = [mark for mark in self.shown if mark is not self.mark.get(permit)]
        self.mark.pop(permit, None)

    def forget(self, permit: Permit) -> None:
        self.mark.pop(permit, None)
        self.valid = [valid for valid in self.valid if valid is not permit]

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


class TestOneCall:
    def test_is_one_failure_however_often_it_is_tried(self) -> None:
        bench = Bench()
        bench.fail_one_call(tries=20)
        assert bench.breaker.state.consecutive_failures == 1

    def test_counts_with_its_first_failed_try(self) -> None:
        bench = Bench()
        for _ in range(4):
            bench.fail_one_call(tries=2)
        assert bench.statuses == []
        bench.fail_one_call(tries=1)
        assert bench.statuses == ["OPEN"]

    @pytest.mark.parametrize("streamed", [False, True])
    def test_that_succeeds_in_the_end_is_no_failure(self, *, streamed: bool) -> None:
        bench = Bench()
        first = bench.enter()
        bench.breaker.failed(first)
        again = bench.enter(first)
        if streamed:
            bench.breaker.alive(again)
            assert bench.breaker.state.consecutive_failures == 0
        bench.breaker.succeeded(again)
        bench.fail(4)
        assert bench.breaker.state.consecutive_failures == 4

    def test_does_not_add_to_the_failure_rate_by_its_tries(self) -> None:
        bench = Bench(BreakerSettings(failures=100, window_min_calls=4, failure_rate=0.5))
        for _ in range(3):
            bench.breaker.succeeded(bench.enter())
        bench.fail_one_call(tries=10)
        assert bench.statuses == []
        bench.fail(2)
        assert bench.statuses == ["OPEN"]

    def test_whose_next_try_is_the_probe_decides_as_every_probe(self) -> None:
        bench = Bench()
        first = bench.enter()
        bench.breaker.failed(first)
        bench.breaker.open(60.0)
        bench.clock.move(60)
        probe = bench.enter(first)
        assert probe.probe
        bench.breaker.failed(probe)
        assert (bench.breaker.status, bench.breaker.state.opened_count) == (BreakerStatus.OPEN, 2)


class TestOnePrompt:
    def test_counts_twice_in_a_window(self) -> None:
        bench = Bench()
        bench.fail(20, prompt=7)
        assert (bench.breaker.status, bench.breaker.state.consecutive_failures) == (BreakerStatus.CLOSED, 2)
        bench.clock.move(31)
        bench.fail(prompt=7)
        assert bench.breaker.state.consecutive_failures == 3

    def test_whose_streams_are_cut_counts_no_more_often(self) -> None:
        bench = Bench()
        for _ in range(20):
            permit = bench.enter()
            bench.breaker.alive(permit)
            bench.breaker.failed(permit, 7)
        assert (bench.breaker.status, bench.breaker.state.consecutive_failures) == (BreakerStatus.CLOSED, 2)

    def test_does_not_hide_the_failures_of_others(self) -> None:
        bench = Bench()
        for prompt in (7, 7, 7, 1, 2):
            bench.fail(prompt=prompt)
        assert bench.statuses == []
        bench.fail(prompt=3)
        assert bench.statuses == ["OPEN"]

    def test_that_fails_as_a_probe_opens_it_again(self) -> None:
        bench = Bench()
        for prompt in (7, 7, 1, 2, 3):
            bench.fail(prompt=prompt)
        bench.clock.move(60)
        bench.fail(prompt=7)
        assert (bench.breaker.status, bench.breaker.state.opened_count) == (BreakerStatus.OPEN, 2)
