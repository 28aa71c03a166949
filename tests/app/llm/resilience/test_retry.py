from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import FailureKind, ProviderError
from app.domain.usage import TokenUsage
from app.llm.resilience.retry import Retry, RetryBudget
from app.settings import RetrySettings
from tests.clocks import ManualClock

SILENCE = timedelta(seconds=30)
BROKEN = ProviderError(FailureKind.SERVER_ERROR)


def build(**changes: object) -> tuple[Retry, ManualClock]:
    clock = ManualClock()
    return Retry(RetrySettings().model_copy(update=changes), clock, Random(1), silence=SILENCE), clock


class TestBackoff:
    @pytest.mark.parametrize(("tries", "longest"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (100, 8)])
    def test_it_doubles_up_to_eight_seconds_half_of_it_random(self, tries: int, longest: float) -> None:
        retry, _ = build()
        delays = [retry.backoff(tries) for _ in range(500)]
        assert longest / 2 <= min(delays) < longest * 0.55
        assert longest * 0.95 < max(delays) <= longest

    @given(
        tries=st.integers(1, 4), retry_after=st.none() | st.floats(0, 100), left=st.floats(0, 100), is_last_target=st.booleans()
    )
    def test_no_delay_passes_the_deadline_or_undercuts_retry_after(
        self, tries: int, retry_after: float | None, left: float, *, is_last_target: bool
    ) -> None:
        retry, clock = build()
        wait = None if retry_after is None else timedelta(seconds=retry_after)
        error = ProviderError(FailureKind.RATE_LIMITED, retry_after=wait)
        delay = retry.delay(tries, error, clock.monotonic() + left, is_last_target=is_last_target)
        if delay is not None:
            assert delay < left
            assert delay >= max(2 ** (tries - 1) / 2, (wait or timedelta()).total_seconds())
            assert is_last_target or delay <= 8


class TestWhoIsAskedAgain:
    @pytest.mark.parametrize("kind", list(FailureKind))
    def test_only_failures_that_a_retry_can_repair(self, kind: FailureKind) -> None:
        retry, clock = build()
        delay = retry.delay(1, ProviderError(kind), clock.monotonic() + 600, is_last_target=True)
        mendable = {"connection", "rate_limited", "overloaded", "server_error", "malformed", "truncated", "not_implemented"}
        assert (delay is not None) == (kind.value in mendable)

    def test_five_times_in_all_or_twice_where_another_target_is_left(self) -> None:
        retry, clock = build()
        deadline = clock.monotonic() + 600
        assert [retry.delay(tries, BROKEN, deadline, is_last_target=True) is None for tries in (1, 4, 5)] == [False, False, True]
        assert [retry.delay(tries, BROKEN, deadline, is_last_target=False) is None for tries in (1, 2)] == [False, True]

    @pytest.mark.parametrize("is_last_target", [False, True])
    @pytest.mark.parametrize(
        ("kind", "confirmed"),
        [
            (FailureKind.MALFORMED, False),
            (FailureKind.SERVER_ERROR, False),
            (FailureKind.OVERLOADED, True),
            (FailureKind.RATE_LIMITED, True),
            (FailureKind.TRUNCATED, True),
        ],
    )
    def test_never_for_what_was_paid_for(self, kind: FailureKind, *, confirmed: bool, is_last_target: bool) -> None:
        retry, clock = build()
        paid = ProviderError(kind, usage=TokenUsage(confirmed=confirmed))
        assert retry.delay(1, paid, clock.monotonic() + 600, is_last_target=is_last_target) is None
        free = ProviderError(kind)
        assert retry.delay(1, free, clock.monotonic() + 600, is_last_target=is_last_target) is not None

    @pytest.mark.parametrize("kind", [FailureKind.CONNECTION, FailureKind.TRUNCATED])
    def test_after_a_connection_that_broke_though_its_cost_is_estimated(self, kind: FailureKind) -> None:
        retry, clock = build()
        lost = ProviderError(kind, usage=TokenUsage(confirmed=False))
        assert retry.delay(1, lost, clock.monotonic() + 600, is_last_target=True) is not None

    def test_once_more_where_a_stream_came_broken_and_only_without_another_target(self) -> None:
        retry, clock = build()
        deadline = clock.monotonic() + 600
        broken = ProviderError(FailureKind.MALFORMED, usage=TokenUsage(confirmed=False), broke_off=True)
        assert [retry.delay(tries, broken, deadline, is_last_target=True) is None for tries in (1, 2)] == [False, True]
        assert retry.delay(1, broken, deadline, is_last_target=False) is None

    def test_once_more_where_a_server_cannot_do_what_is_asked_and_only_without_another_target(self) -> None:
        retry, clock = build()
        deadline = clock.monotonic() + 600
        unable = ProviderError(FailureKind.NOT_IMPLEMENTED)
        assert [retry.delay(tries, unable, deadline, is_last_target=True) is None for tries in (1, 2)] == [False, True]
        assert retry.delay(1, unable, deadline, is_last_target=False) is None

    @pytest.mark.parametrize("is_last_target", [False, True])
    def test_never_a_target_that_was_silent(self, *, is_last_target: bool) -> None:
        retry, clock = build()
        deadline = clock.monotonic() + 600
        for kind in (FailureKind.CONNECTION, FailureKind.SERVER_ERROR):
            error = ProviderError(kind, unanswered_seconds=30.0)
            assert retry.delay(1, error, deadline, seconds=30.0, is_last_target=is_last_target) is None
            assert retry.delay(1, error, deadline, seconds=29.0, is_last_target=is_last_target) is not None

    def test_but_one_whose_answer_had_begun_and_took_long(self) -> None:
        retry, clock = build()
        cut = ProviderError(FailureKind.TRUNCATED)
        assert retry.delay(1, cut, clock.monotonic() + 600, seconds=50.0, is_last_target=True) is not None

    def test_a_long_retry_after_is_sat_out_only_where_no_other_target_is_left(self) -> None:
        retry, clock = build()
        error = ProviderError(FailureKind.RATE_LIMITED, retry_after=timedelta(seconds=40))
        assert retry.delay(1, error, clock.monotonic() + 600, is_last_target=False) is None
        assert retry.delay(1, error, clock.monotonic() + 600, is_last_target=True) == 40
        assert retry.delay(1, error, clock.monotonic() + 40, is_last_target=True) is None


class TestBudget:
    @given(steps=st.lists(st.one_of(st.just("request"), st.just("retry"), st.floats(0.01, 5)), max_size=300))
    def test_retries_are_a_fifth_of_the_load_plus_three_a_second(self, steps: list[str | float]) -> None:
        clock = ManualClock()
        budget = RetryBudget(0.2, 3.0, clock)
        requests = retries = 0
        seconds = 0.0
        for step in steps:
            if isinstance(step, float):
                clock.move(step)
                seconds += step
            elif step == "request":
                budget.request()
                requests += 1
            else:
                retries += budget.withdraw()
            assert retries <= 30 + 0.2 * requests + 3 * seconds + 1e-6

    def test_an_outage_at_full_load_is_not_multiplied(self) -> None:
        clock = ManualClock()
        retry = Retry(RetrySettings(), clock, Random(1), silence=SILENCE)
        granted = 0
        for _ in range(10_000):
            retry.budget.request()
            granted += retry.delay(1, BROKEN, clock.monotonic() + 600, is_last_target=True) is not None
            clock.move(0.001)
        assert granted <= 30 + 2_000 + 30
        assert granted >= 2_000
