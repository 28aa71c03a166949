"""Ending background tasks for good."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_PATIENCE_SECONDS = 0.5


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels until every task has ended, whatever with.

    Once is not enough: `asyncio.wait_for` before Python 3.12, which redis-py uses to send, swallows a cancellation that comes
    together with what it waits for, and the task runs on.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        ended, pending = await asyncio.wait(pending, timeout=_PATIENCE_SECONDS)
        for task in ended:
            if not task.cancelled():
                task.exception()


async def see_out(tasks: Iterable[asyncio.Task[Any]], seconds: float) -> None:
    """Gives tasks `seconds` to end by themselves, then cancels the others once, and waits until each has seen to its end."""
    pending = set(tasks)
    if pending:
        _, pending = await asyncio.wait(pending, timeout=seconds)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
