"""The same scripts through Sentinel and Cluster, on real servers."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from app.domain.errors import StoreUnavailable
from app.embedded.binaries import find_valkey
from app.redis.clients import RedisClient, Script, Server, connect_redis
from app.runtime.clock import SystemClock
from app.settings import RedisSettings

pytestmark = [pytest.mark.anyio, pytest.mark.drill]

SLOTS = 16384


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextmanager
def server(folder: Path, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """One server on loopback, gone when the test is over."""
    home = folder / str(port)
    home.mkdir()
    file = home / "server.conf"
    file.write_text("\n".join([f"port {port}", "bind 127.0.0.1", f"dir {home}", 'save ""', *options]))
    command = [str(find_valkey()), str(file), *(["--sentinel"] if any("sentinel" in option for option in options) else [])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(home)


async def until_it_works(client: RedisClient, script: Script, key: str) -> object:
    async with asyncio.timeout(20):
        while True:
            try:
                return await client.evaluate(script, key, uuid4().hex, 60)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def until_true(client: RedisClient, condition: Callable[[Server], Awaitable[bool]]) -> None:
    """A server that is slow to answer is asked again."""
    async with asyncio.timeout(30):
        while True:
            try:
                if await client.execute(condition):
                    return
            except StoreUnavailable:
                pass
            await asyncio.sleep(0.05)


class TestSentinel:
    @pytest.fixture
    async def servers(self, tmp_path: Path) -> AsyncIterator[tuple[str, subprocess.Popen[bytes]]]:
        primary, replica, *sentinels = free_ports(5)
        watch = [
            f"sentinel monitor main 127.0.0.1 {primary} 2",
            "sentinel down-after-milliseconds main 500",
            "sentinel failover-timeout main 2000",
        ]
        with ExitStack() as stack:
            process = stack.enter_context(server(tmp_path, primary))
            stack.enter_context(server(tmp_path, replica, f"replicaof 127.0.0.1 {primary}"))
            for port in sentinels:
                stack.enter_context(server(tmp_path, port, *watch))
            for port in sentinels:
                await self.wait_for_acquaintance(port)
            yield f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in sentinels)}/main/0", process

    async def test_the_new_primary_is_used_after_a_failover(self, servers: tuple[str, subprocess.Popen[bytes]]) -> None:
        url, primary = servers
        script = Script("peers")
        client = connect_redis(url, RedisSettings(), SystemClock())
        try:
            assert await until_it_works(client, script, "test:peers") == 1
            await self.wait_for_replica(client)
            primary.kill()
            assert await until_it_works(client, script, "test:peers") == 2
        finally:
            await client.close()

    async def wait_for_acquaintance(self, port: int) -> None:
        """A sentinel agrees on no new primary before it knows the replica and the other sentinels."""

        async def knows_all(server: Server) -> bool:
            assert isinstance(server, Redis)
            found: Any = await server.sentinel_master("main")
            return bool(found["num-slaves"] == 1 and found["num-other-sentinels"] == 2)

        client = connect_redis(f"redis://127.0.0.1:{port}/0", RedisSettings(), SystemClock())
        try:
            await until_true(client, knows_all)
        finally:
            await client.close()

    async def wait_for_replica(self, client: RedisClient) -> None:
        async def is_caught_up(server: Server) -> bool:
            found = await server.info("replication")
            replica = found.get("slave0", {})
            return bool(replica.get("state") == "online" and replica.get("offset") == found["master_repl_offset"])

        await until_true(client, is_caught_up)


class TestCluster:
    async def test_scripts_reach_the_node_of_their_key(self, tmp_path: Path) -> None:
        ports = free_ports(3)
        bus = free_ports(3)
        with ExitStack() as stack:
            for port, other in zip(ports, bus, strict=True):
                stack.enter_context(server(tmp_path, port, "cluster-enabled yes", f"cluster-port {other}"))
            await self.join(ports, bus)
            client = connect_redis(f"redis+cluster://127.0.0.1:{ports[0]}", RedisSettings(), SystemClock())
            script = Script("peers")
            counts = [await until_it_works(client, script, f"test:{number}") for number in range(20)]
            assert counts == [1] * 20
            await client.close()

    async def join(self, ports: list[int], bus: list[int]) -> None:
        """Each node gets a third of the slots and meets the first one."""
        third = SLOTS // 3 + 1
        for index, port in enumerate(ports):
            node = connect_redis(f"redis://127.0.0.1:{port}/0", RedisSettings(), SystemClock())
            first, last = index * third, min(SLOTS, (index + 1) * third) - 1

            async def command(*words: str | int, node: RedisClient = node) -> object:
                return await node.execute(lambda server: server.execute_command(*words))

            async with asyncio.timeout(10):
                while True:
                    try:
                        await command("PING")
                        break
                    except StoreUnavailable:
                        await asyncio.sleep(0.05)
            await command("CLUSTER", "ADDSLOTSRANGE", first, last)
            await command("CLUSTER", "MEET", "127.0.0.1", ports[0], bus[0])
            await node.close()
