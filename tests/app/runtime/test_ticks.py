from __future__ import annotations

import asyncio

import pytest

from app.runtime.ticks import MAX_WAIT, MIN_WAIT, Ticks, waiting_seconds
from tests.clocks import ManualClock, settle


class TestWaiting:
    def test_takes_longer_with_more_streams_up_to_a_limit(self) -> None:
        waits = [waiting_seconds(count) for count in (0, 1, 100, 500, 1000, 100_000)]
        assert waits[:3] == [MIN_WAIT] * 3
        assert MIN_WAIT < waits[3] < waits[4] < waits[5] == MAX_WAIT

    def test_takes_longer_while_the_event_loop_is_late(self) -> None:
        waits = [waiting_seconds(500, late) for late in (0.0, 0.01, 0.1, 10.0)]
        assert waits == sorted(waits)
        assert waits[0] < waits[1] < waits[3] == MAX_WAIT
        assert waiting_seconds(1, 0.1) == MIN_WAIT


@pytest.mark.anyio
class TestTicks:
    async def test_call_at_once_after_a_silence_and_the_rest_together(self) -> None:
        clock, called = ManualClock(), list[str]()
        ticks = Ticks(clock)
        for name in ("a", "b", "c"):
            ticks.soon(lambda name=name: called.append(name))  # type: ignore[misc]  # the default binds it
        assert called == ["a"]
        await clock.advance(2 * MIN_WAIT)
        assert called == ["a", "b", "c"]

    async def test_call_each_once_and_in_the_order_of_time(self) -> None:
        clock, called = ManualClock(), list[float]()
        ticks = Ticks(clock)
        for seconds in (0.3, 0.1, 0.2, 0.1):
            ticks.after(seconds, lambda seconds=seconds: called.append(seconds))  # type: ignore[misc]  # as above
        await clock.advance(0.2)
        assert called[:2] == [0.1, 0.1]
        assert 0.3 not in called
        await clock.advance(1.0)
        assert called == [0.1, 0.1, 0.2, 0.3]

    async def test_sleep_while_nothing_is_due(self) -> None:
        clock = ManualClock()
        ticks = Ticks(clock)
        ticks.after(0.1, lambda: None)
        await clock.advance(1.0)
        assert clock.sleeping == 0

    async def test_go_on_where_one_call_fails(self) -> None:
        clock, called, failed = ManualClock(), list[str](), list[object]()
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failed.append(context["exception"]))
        ticks = Ticks(clock)
        ticks.after(0.1, lambda: called.remove("a"))
        ticks.after(0.1, lambda: called.append("b"))
        await clock.advance(1.0)
        assert called == ["b"]
        assert len(failed) == 1

    async def test_know_how_late_they_come(self) -> None:
        clock = ManualClock()
        ticks = Ticks(clock)
        ticks.after(0.1, lambda: None)
        await clock.advance(1.0)
        assert ticks.late == pytest.approx(0.0, abs=1e-6)
        ticks.after(0.1, lambda: None)
        await settle()
        clock.move(1.0)
        await clock.advance(0.0)
        assert ticks.late > 0.05
