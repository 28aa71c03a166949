from __future__ import annotations

import asyncio

import pytest

from app.runtime.drain import Drain
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio


class TestTheTimeLeft:
    async def test_counts_from_the_closing_and_not_from_the_first_request_to_stop(self) -> None:
        clock = ManualClock()
        drain = Drain(20, clock.monotonic)
        drain.begin()
        clock.move(5)
        drain.close()
        clock.move(5)
        drain.close()
        assert drain.left == 15

    async def test_is_never_less_than_a_settlement_needs(self) -> None:
        clock = ManualClock()
        drain = Drain(20, clock.monotonic)
        before = drain.left
        drain.close()
        clock.move(60)
        assert [before, drain.left] == [1, 1]

    async def test_is_a_second_when_it_is_cut_short(self) -> None:
        drain = Drain(20, ManualClock().monotonic)
        drain.close()
        drain.cut_short()
        assert drain.left == 1


class TestClosing:
    async def test_informs_every_listener_once(self) -> None:
        heard: list[str] = []
        drain = Drain(20, ManualClock().monotonic)
        drain.on_close(lambda: heard.append("first"))
        drain.on_close(lambda: heard.append("second"))
        drain.begin()
        assert (heard, drain.begun, drain.closing) == ([], True, False)
        drain.close()
        drain.close()
        assert (heard, drain.closing) == (["first", "second"], True)


class TestWaiting:
    async def test_ends_with_the_work_also_if_that_fails(self) -> None:
        drain = Drain(60, ManualClock().monotonic)
        drain.close()
        work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(drain.wait([work]))
        await asyncio.sleep(0)
        work.set_exception(OSError())
        await asyncio.wait_for(waiting, 5)
        assert isinstance(work.exception(), OSError)

    async def test_without_work_takes_no_time(self) -> None:
        drain = Drain(60, ManualClock().monotonic)
        drain.close()
        await asyncio.wait_for(drain.wait([]), 5)

    async def test_ends_soon_after_it_is_cut_short(self) -> None:
        drain = Drain(60, ManualClock().monotonic)
        drain.close()
        work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(drain.wait([work]))
        await asyncio.sleep(0)
        drain.cut_short()
        await asyncio.wait_for(waiting, 5)
        assert not work.done()
