"""From the command to the first answered completion, on a fresh and on an existing data directory, and the memory of an idle
server process. Each is shown as a share of its limit. The CPU time of the command's own process bounds the start from below and
says what a machine that is busy with something else hides. Run: python -m benchmarks.startup [--times 3]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from tests.servers import Client, start_server

FRESH_SECONDS = 6.0
EXISTING_SECONDS = 3.0
RESIDENT_MIB = 200.0
_IDLE_SECONDS = 2.0
_COMPLETE = """
mutation {
  completionCreate(input: {messages: [{role: USER, text: "Say hello."}]}) { __typename ... on Completion { text } }
}"""


@dataclass(frozen=True, slots=True)
class Start:
    seconds: float
    cpu_seconds: float
    resident_mib: float


def start_once(data_dir: Path, key: str | None = None) -> tuple[Start, str]:
    """The figures of one start and the administrator's key."""
    begun = time.monotonic()
    with start_server(data_dir) as server:
        known = key or server.key
        assert known is not None

        async def ask() -> str:
            async with aiohttp.ClientSession() as session:
                answer = await Client(session, server, known).execute(_COMPLETE)
            return str(answer)

        answered = asyncio.run(ask())
        assert "Completion" in answered, answered
        seconds = time.monotonic() - begun
        cpu = psutil.Process(server.process.pid).cpu_times()
        time.sleep(_IDLE_SECONDS)
        resident = max(process.memory_info().rss for process in server.servers)
    return Start(seconds, cpu.user + cpu.system, resident / 2**20), known


def report(name: str, found: float, limit: float, unit: str) -> bool:
    print(f"{name:<42} {found:8.2f} {unit:<3} of {limit:5.0f}   ratio {found / limit:.2f}")
    return found <= limit


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup")
    parser.add_argument("--times", type=int, default=3, help="starts of each kind; medians are shown")
    times: int = parser.parse_args().times
    fresh, existing = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(times):
            data_dir = Path(folder) / str(number)
            start, key = start_once(data_dir)
            fresh.append(start)
            existing.append(start_once(data_dir, key)[0])
    well = [
        report("first answer on a fresh data directory", statistics.median(each.seconds for each in fresh), FRESH_SECONDS, "s"),
        report("first answer on an existing one", statistics.median(each.seconds for each in existing), EXISTING_SECONDS, "s"),
        report("CPU of the command until then", statistics.median(each.cpu_seconds for each in existing), EXISTING_SECONDS, "s"),
        report("resident, a server process after it", max(each.resident_mib for each in fresh + existing), RESIDENT_MIB, "MiB"),
    ]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
