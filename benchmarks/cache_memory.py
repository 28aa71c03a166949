"""Row 5 of `benchmarks.cache`: how much a process grows by the memory tier, to the bytes that the tier may hold.

In a process of its own the tier is filled once and emptied, so that what Python keeps for later is there. Then so many entries
are written that the tier is full and evicts. The growth since then is compared with its bytes.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing.connection import Connection

import psutil

from app.cache.entries import Entry
from app.cache.keys import EntryKey
from app.cache.memory import MemoryTier
from app.runtime.clock import SystemClock

MAX_BYTES = 64 * 1024 * 1024
FILLS = 100_000
SIZES = (200, 4000)
"""Of the answers, the least and the most."""


async def fill(tier: MemoryTier, count: int, *, until_full: bool = False) -> None:
    draw = random.Random(1)
    for number in range(count):
        now = datetime.now(UTC)
        body = os.urandom(draw.randint(*SIZES))
        entry = Entry(body, now, now, now + timedelta(hours=1), (f"tag{number % 5}",), Decimal("0.0123"))
        await tier.put(EntryKey("acme", f"completion/default/{draw.randbytes(16).hex()}{number}"), entry, 3600)
        if until_full and (await tier.size()).evictions:
            return


def resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


async def grow() -> tuple[int, int]:
    tier = MemoryTier(MAX_BYTES, SystemClock())
    await fill(tier, FILLS, until_full=True)
    tier.clear()
    before = resident()
    await fill(tier, FILLS)
    size = await tier.size()
    if not size.evictions or size.bytes is None or not 0.95 * MAX_BYTES < size.bytes <= MAX_BYTES:
        raise SystemExit(f"the tier was not full: {size}")
    return before, resident()


def process(result: Connection) -> None:
    for size in asyncio.run(grow()):
        result.send(size)


def measure() -> float:
    """Returns the ratio and prints the bytes."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=process, args=(theirs,))
    child.start()
    before, after = int(ours.recv()), int(ours.recv())
    child.join()
    print(f"    memory: {before / 2**20:.1f} MiB after the warm-up, {after / 2**20:.1f} MiB when full")
    return (after - before) / MAX_BYTES


if __name__ == "__main__":
    print(f"ratio {measure():.2f}")
