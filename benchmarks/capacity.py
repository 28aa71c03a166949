"""What one server process needs: memory at rest, processor time of a call, memory of an open WebSocket, and what a call leaves in
the database. docs/capacity.md has the figures. Run: python -m benchmarks.capacity [--calls 2000] [--sockets 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
import psutil

from tests.servers import Client, RunningServer, start_server

CLIENTS = 32
IDLE_SECONDS = 3.0
SETTINGS = {
    "GREENLANG_LIMITS__SOCKETS_PER_KEY": "100000",
    "GREENLANG_LIMITS__ALLOWANCE_CAPACITY": "1000000000",
    "GREENLANG_SERVER__SHARE_PER_KEY": "1",
    "GREENLANG_SERVER__SHARE_PER_TENANT": "1",
    "GREENLANG_SERVER__SHARE_FOR_ADMIN": "0",
}
COMPLETE = """
mutation($text: String!) {
  completionCreate(input: {messages: [{role: USER, text: $text}], maxOutputTokens: 100, agent: "capacity"}) { __typename }
}"""


@dataclass(frozen=True)
class Processes:
    server: RunningServer

    @property
    def serving(self) -> list[psutil.Process]:
        return [psutil.Process(self.server.process.pid), *self.server.servers]

    def pss_mib(self) -> float:
        return sum(each.memory_full_info().pss for each in self.serving) / 2**20

    def resident_bytes(self) -> int:
        return sum(each.memory_info().rss for each in self.server.servers)

    def cpu_ms(self) -> tuple[float, float]:
        """Of the server's own processes, and of PostgreSQL."""
        stores = []
        for each in psutil.Process(self.server.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                stores += [each] if each.name() == "postgres" else []
        return _used(self.server.servers), _used(stores)


def _used(processes: list[psutil.Process]) -> float:
    used = 0.0
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            used += (times.user + times.system) * 1000
    return used


@contextmanager
def served(*arguments: str) -> Iterator[Processes]:
    with tempfile.TemporaryDirectory() as folder, start_server(Path(folder) / "data", *arguments, environ=SETTINGS) as server:
        time.sleep(IDLE_SECONDS)
        yield Processes(server)


def measure_rest() -> None:
    with served("--workers", "1") as one:
        alone = one.pss_mib()
    with served("--workers", "2") as two:
        both = two.pss_mib()
    print(f"at rest: {alone:.0f} MiB with one server process, {both - alone:.0f} MiB for each further one (PSS, with the parent)")


async def measure_calls(processes: Processes, calls: int) -> None:
    server = processes.server
    assert server.key is not None
    async with aiohttp.ClientSession() as session:
        client = Client(session, server, server.key)

        async def complete(numbers: Iterator[int]) -> None:
            for number in numbers:
                answer = await client.execute(COMPLETE, {"text": f"Question {number}: what is new?"})
                assert answer == {"completionCreate": {"__typename": "Completion"}}, answer

        async def complete_all(count: int, start: int) -> None:
            numbers = iter(range(start, start + count))
            await asyncio.gather(*(complete(numbers) for _ in range(CLIENTS)))

        await complete_all(calls // 4, 0)
        rows, (own, stores), begun = await database_bytes(server), processes.cpu_ms(), time.monotonic()
        await complete_all(calls, calls)
        seconds, (own_after, stores_after) = time.monotonic() - begun, processes.cpu_ms()
        grown = await database_bytes(server) - rows
    used, stores_used = (own_after - own) / calls, (stores_after - stores) / calls
    print(f"a completion: {used:.2f} ms of the server's CPU, {stores_used:.2f} of PostgreSQL's")
    print(f"a completion: {grown / calls / 1024:.1f} KiB in the database")
    print(f"{calls / seconds:.0f} completions a second by {CLIENTS} clients on this machine")


async def measure_sockets(processes: Processes, sockets: int) -> None:
    server = processes.server
    headers = {"Authorization": f"Bearer {server.key}"}
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers))
        before = processes.resident_bytes()
        for _ in range(sockets):
            socket = await stack.enter_async_context(session.ws_connect(server.url, protocols=["graphql-transport-ws"]))
            await socket.send_json({"type": "connection_init"})
            await socket.receive_json()
        await asyncio.sleep(IDLE_SECONDS)
        grown = processes.resident_bytes() - before
    print(f"an open WebSocket: {grown / sockets / 1024:.1f} KiB")


async def database_bytes(server: RunningServer) -> int:
    connection = await asyncpg.connect((server.data_dir / "database.owner.url").read_text().strip())
    try:
        size: int = await connection.fetchval("select pg_database_size(current_database())")
    finally:
        await connection.close()
    return size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--sockets", type=int, default=1000)
    options = parser.parse_args()
    measure_rest()
    with served("--workers", "1") as processes:
        asyncio.run(measure_calls(processes, options.calls))
        asyncio.run(measure_sockets(processes, options.sockets))


if __name__ == "__main__":
    main()
