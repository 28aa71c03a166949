from __future__ import annotations

import asyncio

import pytest

from app.gateway.start_pacing import MAX_STARTING, StartPacing
from app.runtime.clock import SystemClock

pytestmark = pytest.mark.anyio


class SlowTurns(SystemClock):
    """Each look at it finds that `seconds` have passed."""

    def __init__(self, seconds: float) -> None:
        self.looks = 0
        self._seconds = seconds

    def monotonic(self) -> float:
        self.looks += 1
        return self.looks * self._seconds


class TestStartWhileTheEventLoopIsBusy:
    async def test_waits_for_a_bounded_time(self) -> None:
        clock = SlowTurns(seconds=0.5)
        async with StartPacing(clock).turn():
            assert 5 < clock.looks < 15

    async def test_counts_from_when_each_came_however_many_come(self) -> None:
        clock = SlowTurns(seconds=0.04)
        pacing = StartPacing(clock)
        started = []

        async def start(number: int) -> None:
            async with pacing.turn():
                await asyncio.sleep(0)
                started.append(number)

        await asyncio.gather(*map(start, range(64)))
        assert sorted(started) == list(range(64))
        assert clock.monotonic() < 60

    async def test_does_not_wait_once_it_gets_round_soon(self) -> None:
        clock = SlowTurns(seconds=0.001)
        async with StartPacing(clock).turn():
            assert clock.looks == 3


class TestManyStarts:
    async def test_go_a_few_at_a_time(self) -> None:
        pacing, inside, most = StartPacing(SystemClock()), 0, 0

        async def start() -> None:
            nonlocal inside, most
            async with pacing.turn():
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(start() for _ in range(4 * MAX_STARTING)))
        assert 0 < most <= MAX_STARTING
