"""Background tasks: their number, and how they are ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from contextvars import Context
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Gauge

_TIMEOUT_SECONDS = 0.5
T = TypeVar("T")


def create_shared_task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Starts a task that works for many callers. It does not inherit the context of the one that made it necessary, so its log
    lines do not carry that caller's request id."""
    return asyncio.create_task(work, context=Context())


def count_tasks(registry: CollectorRegistry) -> None:
    """Reports how many tasks the running event loop has. A number that only grows is a leak."""
    loop = asyncio.get_running_loop()
    gauge = Gauge("greenlang_tasks", "Tasks of this process's event loop.", registry=registry)
    gauge.set_function(lambda: len(asyncio.all_tasks(loop)))


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels until every task has ended, with any result.

    One cancellation is not enough: `asyncio.wait_for` before Python 3.12, which redis-py uses to send, swallows a cancellation
    that comes together with the awaited result, and the task continues.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        ended, pending = await asyncio.wait(pending, timeout=_TIMEOUT_SECONDS)
        for task in ended:
            if not task.cancelled():
                task.exception()
