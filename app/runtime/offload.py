"""Work that would block the event loop runs in two threads: one for large work, one for the rest.

A thread holds the interpreter during one call into C, some 30 ms for a body of 30 MB. Eight threads in turn would block the
loop for a quarter of a second and would not be faster. Each thread also keeps its own heap memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

LARGE_BYTES = 1024 * 1024

Result = TypeVar("Result")


class Offload:
    """One per process. Each thread does its work in the order of arrival."""

    def __init__(self) -> None:
        self._large = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large")
        self._rest = ThreadPoolExecutor(max_workers=1, thread_name_prefix="offload")

    async def run_in_thread(self, size: int, work: Callable[[], Result]) -> Result:
        """`size` is roughly the number of bytes that the work processes."""
        lane = self._large if size >= LARGE_BYTES else self._rest
        return await asyncio.get_running_loop().run_in_executor(lane, work)
