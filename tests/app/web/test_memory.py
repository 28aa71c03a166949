"""What large bodies leave behind in the heap."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event

import psutil
import pytest

from app.domain.errors import Overloaded
from app.web.capacity import Holder
from app.web.memory import LARGE_BYTES, REST_SECONDS, BodyCapacity, trim_heap
from tests.app.graphql.serving import eventually
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 10
HOLDER = Holder("agent", "acme", is_admin=True)


class Trims:
    def __init__(self) -> None:
        self.count = 0
        self._one = Event()

    def __call__(self) -> None:
        self.count += 1
        self._one.set()

    async def one_more(self) -> None:
        assert await asyncio.to_thread(self._one.wait, DEADLINE_SECONDS)
        self._one.clear()


def body_capacity(clock: ManualClock, trims: Trims) -> BodyCapacity:
    return BodyCapacity(4 * LARGE_BYTES, timedelta(seconds=1), clock, trims)


class TestBodyCapacity:
    async def test_the_heap_is_trimmed_once_no_large_body_has_come_for_a_while(self) -> None:
        clock, trims = ManualClock(), Trims()
        capacity = body_capacity(clock, trims)
        for _ in range(2):
            with capacity.of(HOLDER).held(LARGE_BYTES):
                await clock.advance(0)
            for _ in range(3):
                await clock.advance(REST_SECONDS - 1)
                with capacity.of(HOLDER).held(LARGE_BYTES):
                    await clock.advance(0)
            before = trims.count
            await clock.advance(2 * REST_SECONDS)
            await trims.one_more()
            assert trims.count == before + 1

    async def test_not_while_large_ones_are_in_flight(self) -> None:
        clock, trims = ManualClock(), Trims()
        capacity = body_capacity(clock, trims)
        with capacity.of(HOLDER).held(LARGE_BYTES):
            await clock.advance(10 * REST_SECONDS)
            assert trims.count == 0
        await clock.advance(2 * REST_SECONDS)
        await trims.one_more()

    async def test_one_that_comes_meanwhile_has_a_trim_of_its_own(self) -> None:
        clock, trims, begun, go = ManualClock(), Trims(), Event(), Event()

        def slow_trim() -> None:
            begun.set()
            go.wait(DEADLINE_SECONDS)
            trims()

        capacity = BodyCapacity(4 * LARGE_BYTES, timedelta(seconds=1), clock, slow_trim)
        with capacity.of(HOLDER).held(LARGE_BYTES):
            pass
        await clock.advance(2 * REST_SECONDS)
        assert await asyncio.to_thread(begun.wait, DEADLINE_SECONDS)
        with capacity.of(HOLDER).held(LARGE_BYTES):
            go.set()
        await trims.one_more()
        await eventually(lambda: clock.sleeping)
        await clock.advance(2 * REST_SECONDS)
        await trims.one_more()

    async def test_small_bodies_and_refused_ones_leave_it_alone(self) -> None:
        clock, trims = ManualClock(), Trims()
        capacity = body_capacity(clock, trims)
        with pytest.raises(Overloaded):
            capacity.take(HOLDER, 5 * LARGE_BYTES)
        for _ in range(3):
            with capacity.of(HOLDER).held(LARGE_BYTES - 1):
                pass
        assert clock.sleeping == 0


@contextmanager
def freed_between_kept(megabytes: int) -> Iterator[None]:
    """Blocks of which every second is freed: glibc cannot shrink its heap by these, only forget their pages."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    size = 64 * 1024
    blocks = [libc.malloc(size) for _ in range(2 * megabytes * 16)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[::2]:
        libc.free(block)
    try:
        yield
    finally:
        for block in blocks[1::2]:
            libc.free(block)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason=f"no glibc: {sys.platform}")
def test_freed_blocks_between_used_ones_go_back_to_the_system() -> None:
    process = psutil.Process()
    with freed_between_kept(megabytes=32):
        before = process.memory_info().rss
        trim_heap()
        assert before - process.memory_info().rss > 24 * 1024 * 1024
