from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress

import pytest

from app.runtime.await_timeout import TimeLimit

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]),
]

LONG = 60.0


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


class TestTimeLimit:
    async def test_ends_what_takes_too_long(self) -> None:
        limit = TimeLimit()
        with pytest.raises(TimeoutError), limit.of(0.01):
            await for_ever()
        limit.close()

    async def test_leaves_alone_what_is_done_in_time(self) -> None:
        limit = TimeLimit()
        for _ in range(3):
            with limit.of(LONG):
                await asyncio.sleep(0)
        limit.close()

    async def test_may_be_shorter_than_the_one_before(self) -> None:
        limit = TimeLimit()
        with limit.of(LONG):
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError), limit.of(0.01):
            await for_ever()
        limit.close()

    async def test_may_be_longer_than_the_one_before(self) -> None:
        limit = TimeLimit()
        with limit.of(0.01):
            await asyncio.sleep(0)
        with limit.of(LONG):
            await asyncio.sleep(0.05)
        limit.close()

    async def test_passes_while_no_one_waits_without_effect(self) -> None:
        limit = TimeLimit()
        with limit.of(0.01):
            pass
        await asyncio.sleep(0.05)
        with limit.of(LONG):
            await asyncio.sleep(0)
        limit.close()

    async def test_may_leave_no_time_at_all(self) -> None:
        limit = TimeLimit()
        for _ in range(2):
            with limit.of(0.0):
                pass
        with pytest.raises(TimeoutError), limit.of(0.0):
            await for_ever()
        limit.close()

    async def test_can_pass_again_and_again(self) -> None:
        limit = TimeLimit()
        for _ in range(2):
            with pytest.raises(TimeoutError), limit.of(0.01):
                await for_ever()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        limit.close()

    async def test_lets_another_cancellation_through(self) -> None:
        limit = TimeLimit()

        async def wait() -> None:
            with limit.of(LONG):
                await for_ever()

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        assert waiting.cancelled()
        limit.close()

    async def test_passes_errors_on(self) -> None:
        limit = TimeLimit()
        with pytest.raises(KeyError), limit.of(LONG):
            raise KeyError
        limit.close()

    async def test_does_not_blame_others_for_a_loop_that_was_held_up(self) -> None:
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=here)
        limit = TimeLimit()

        def hold_up() -> None:
            there.send(b"long there\n")
            time.sleep(0.1)

        asyncio.get_running_loop().call_soon(hold_up)
        with limit.of(0.01):
            assert await reader.readline() == b"long there\n"
        limit.close()
        writer.close()
        there.close()
