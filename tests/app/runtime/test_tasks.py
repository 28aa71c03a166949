from __future__ import annotations

import asyncio

import pytest

from app.runtime.tasks import end_tasks

pytestmark = pytest.mark.anyio


class TestEndingTasks:
    async def test_one_that_swallows_a_cancellation_is_cancelled_again(self) -> None:
        swallowed: list[str] = []

        async def stubborn() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed.append("once")
            await asyncio.sleep(60)

        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        await end_tasks([task])
        assert swallowed == ["once"]
        assert task.cancelled()

    async def test_one_that_failed_keeps_its_failure_to_itself(self) -> None:
        async def failing() -> None:
            raise OSError

        task = asyncio.create_task(failing())
        await asyncio.sleep(0)
        await end_tasks([task])
        assert isinstance(task.exception(), OSError)

    async def test_without_tasks_there_is_nothing_to_wait_for(self) -> None:
        await asyncio.wait_for(end_tasks([]), 1)
