"""Work that would block the event loop runs in two threads: one for large work, one for the rest.

Each thread that wants the interpreter keeps it from the loop for as long as one call into C takes, some 30 ms for a body of
30 MB: eight of them in turn would be a quarter of a second, and no faster. And each has a heap of its own, which keeps what it
once needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

LARGE_BYTES = 1024 * 1024

Result = TypeVar("Result")


class Offload:
    """One per process. Each thread does its work in the order in which it came."""

    def __init__(self) -> None:
        self._large = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large")
        self._rest = ThreadPoolExecutor(max_workers=1, thread_name_prefix="offload")

    async def run_in_thread(self, size: int, work: Callable[[], Result]) -> Result:
        """`size` is about how many bytes it works on."""
        lane = self._large if size >= LARGE_BYTES else self._rest
        return await asyncio.get_running_loop().run_in_executor(lane, work)
