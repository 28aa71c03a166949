from __future__ import annotations

from collections import deque
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.limits import MAX_KEYS, KeyLimited, KeyLimits, RequestBucket
from app.access.principal import Principal
from tests.app.access.principals import principal
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def taken(limits: KeyLimits, caller: Principal) -> bool:
    try:
        async with limits.slot(caller):
            return True
    except KeyLimited:
        return False


class TestRate:
    async def test_a_minutes_worth_at_once_and_then_none(self, clock: ManualClock) -> None:
        limits, caller = KeyLimits(clock), principal(requests_per_minute=3)
        assert [await taken(limits, caller) for _ in range(5)] == [True, True, True, False, False]

    async def test_the_refusal_says_when_there_is_room_and_for_which_limit(self, clock: ManualClock) -> None:
        limits, caller = KeyLimits(clock), principal(requests_per_minute=6)
        for _ in range(6):
            assert await taken(limits, caller)
        with pytest.raises(KeyLimited) as caught:
            async with limits.slot(caller):
                pass
        assert caught.value.retry_after == timedelta(seconds=10)
        assert caught.value.scope == "key key 1: calls a minute"
        clock.move(caught.value.retry_after.total_seconds())
        assert await taken(limits, caller)

    async def test_each_key_has_its_own(self, clock: ManualClock) -> None:
        limits = KeyLimits(clock)
        assert await taken(limits, principal(requests_per_minute=1, key=1))
        assert await taken(limits, principal(requests_per_minute=1, key=2))
        assert not await taken(limits, principal(requests_per_minute=1, key=1))

    async def test_a_process_takes_its_share(self, clock: ManualClock) -> None:
        limits, caller = KeyLimits(clock, share=0.5), principal(requests_per_minute=4)
        assert [await taken(limits, caller) for _ in range(3)] == [True, True, False]

    async def test_a_key_without_limits_has_none(self, clock: ManualClock) -> None:
        limits = KeyLimits(clock)
        assert all([await taken(limits, principal()) for _ in range(1000)])

    async def test_no_minute_gives_more_than_a_full_bucket_and_a_minutes_refill(self, clock: ManualClock) -> None:
        limits, caller = KeyLimits(clock), principal(requests_per_minute=30)
        when: deque[float] = deque()
        for _ in range(600):
            clock.move(0.5)
            if await taken(limits, caller):
                when.append(clock.monotonic())
            while when and when[0] <= clock.monotonic() - 60:
                when.popleft()
            assert len(when) <= 60
        assert len(when) == 30


class TestCallsAtOnce:
    async def test_one_too_many_is_refused_and_room_comes_back(self, clock: ManualClock) -> None:
        limits, caller = KeyLimits(clock), principal(max_concurrent=2)
        async with limits.slot(caller):
            async with limits.slot(caller):
                with pytest.raises(KeyLimited) as caught:
                    async with limits.slot(caller):
                        pass
            assert caught.value.scope == "key key 1: calls at once"
            assert caught.value.retry_after > timedelta(0)
            assert await taken(limits, caller)

    async def test_a_call_that_fails_gives_its_place_back(self, clock: ManualClock) -> None:
        limits, caller = KeyLimits(clock), principal(max_concurrent=1)
        with pytest.raises(RuntimeError):
            async with limits.slot(caller):
                raise RuntimeError
        assert await taken(limits, caller)

    async def test_a_refusal_takes_nothing_from_the_rate(self, clock: ManualClock) -> None:
        limits, caller = KeyLimits(clock), principal(max_concurrent=1, requests_per_minute=2)
        async with limits.slot(caller):
            for _ in range(10):
                assert not await taken(limits, caller)
        assert await taken(limits, caller)

    async def test_a_refusal_by_rate_takes_no_place(self, clock: ManualClock) -> None:
        limits, caller = KeyLimits(clock), principal(max_concurrent=1, requests_per_minute=1)
        assert await taken(limits, caller)
        assert not await taken(limits, caller)
        clock.move(60)
        assert await taken(limits, caller)

    async def test_a_small_share_still_lets_one_through(self, clock: ManualClock) -> None:
        limits, caller = KeyLimits(clock, share=0.1), principal(max_concurrent=2)
        assert await taken(limits, caller)


class TestMemory:
    async def test_keys_that_are_idle_are_forgotten(self, clock: ManualClock) -> None:
        limits = KeyLimits(clock)
        for key in range(MAX_KEYS):
            assert await taken(limits, principal(requests_per_minute=1, key=key))
        clock.move(60)
        assert await taken(limits, principal(requests_per_minute=1, key=MAX_KEYS))
        assert len(limits) == 1

    async def test_a_key_with_a_running_call_is_not(self, clock: ManualClock) -> None:
        limits, busy = KeyLimits(clock), principal(max_concurrent=1, key=MAX_KEYS + 1)
        async with limits.slot(busy):
            clock.move(3600)
            for key in range(MAX_KEYS):
                assert await taken(limits, principal(requests_per_minute=1, key=key))
            clock.move(60)
            assert await taken(limits, principal(requests_per_minute=1, key=MAX_KEYS))
            assert not await taken(limits, busy)


class TestBucket:
    @given(st.integers(1, 1000), st.lists(st.floats(0, 30), max_size=60))
    def test_is_never_overdrawn_and_reports_the_right_wait(self, rate: int, pauses: list[float]) -> None:
        now = start = 1000.0
        bucket, admitted = RequestBucket(rate, now), 0
        for pause in pauses:
            now += pause
            wait = bucket.take(rate, now)
            if wait is None:
                admitted += 1
            else:
                assert bucket.take(rate, now + wait.total_seconds() * 0.99) is not None or wait < timedelta(milliseconds=1)
                now += wait.total_seconds() + 1e-6
                assert bucket.take(rate, now) is None
                admitted += 1
            assert admitted <= rate + (now - start) * rate / 60 + 1e-6
