"""Large work waits for other large work, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Event, current_thread

import pytest

from app.runtime.offload import LARGE_BYTES, Offload

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 10


class TestOffload:
    async def test_large_work_is_done_one_after_the_other(self) -> None:
        offload, go, ended = Offload(), Event(), list[int]()

        def work(number: int) -> Callable[[], int]:
            def do() -> int:
                assert go.wait(DEADLINE_SECONDS)
                ended.append(number)
                return number

            return do

        waiting = [asyncio.create_task(offload.run_in_thread(LARGE_BYTES, work(number))) for number in range(5)]
        assert await offload.run_in_thread(LARGE_BYTES - 1, lambda: list(ended)) == []
        go.set()
        assert await asyncio.gather(*waiting) == ended == [0, 1, 2, 3, 4]

    async def test_none_of_it_on_the_thread_of_the_event_loop_and_all_of_a_size_on_one(self) -> None:
        offload = Offload()
        large = {await offload.run_in_thread(LARGE_BYTES, current_thread) for _ in range(5)}
        rest = {await offload.run_in_thread(1, current_thread) for _ in range(5)}
        assert len(large) == len(rest) == 1
        assert len(large | rest | {current_thread()}) == 3

    async def test_what_it_raises_is_reported(self) -> None:
        with pytest.raises(ZeroDivisionError):
            await Offload().run_in_thread(1, lambda: 1 // 0)
