"""Redis servers as real processes on loopback: alone, watched by Sentinels, or as a cluster. All can use TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from app.domain.errors import StoreUnavailable
from app.embedded.binaries import find_valkey
from app.redis.clients import RedisClient, Server, connect_redis
from app.runtime.clock import SystemClock
from app.settings import RedisSettings
from tests.certificates import TlsFiles

SLOTS = 16384
SERVICE = "main"


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@dataclass(frozen=True)
class RedisServers:
    """`data` and `sentinel` are lines for the configuration of the servers of each kind. `tls` needs a program with TLS."""

    folder: Path
    program: Path
    tls: TlsFiles | None = None
    data: tuple[str, ...] = ()
    sentinel: tuple[str, ...] = ()
    login: str = ""
    sentinel_query: str = ""

    @classmethod
    def embedded(cls, folder: Path) -> RedisServers:
        return cls(folder, find_valkey())

    @property
    def scheme(self) -> str:
        return "rediss" if self.tls else "redis"

    @property
    def settings(self) -> RedisSettings:
        return RedisSettings(tls_ca=self.tls.authority if self.tls else None)

    @contextmanager
    def server(self, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """One server, gone when the test is over."""
        home = self.folder / str(port)
        home.mkdir()
        file = home / "server.conf"
        listening = _tls_lines(port, self.tls) if self.tls else [f"port {port}"]
        file.write_text("\n".join([*listening, "bind 127.0.0.1", f"dir {home}", 'save ""', *options]))
        mode = ["--sentinel"] if any("sentinel" in option for option in options) else []
        process = subprocess.Popen([self.program, file, *mode], stdout=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(home)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[str]:
        """Its URL, once it answers."""
        (port,) = free_ports(1)
        url = f"{self.scheme}://{self.login}127.0.0.1:{port}/0"
        with self.server(port, *self.data):
            async with self.connected(url) as client:
                await until_true(client, _answers)
            yield url

    @asynccontextmanager
    async def watched(self, replicas: int) -> AsyncIterator[tuple[str, subprocess.Popen[bytes]]]:
        """The URL of three Sentinels that know each other and the replicas, and the process of the primary."""
        primary, *others = free_ports(1 + replicas + 3)
        copies, sentinels = others[:replicas], others[replicas:]
        watch = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 2000",
            *self.sentinel,
        ]
        hosts = ",".join(f"127.0.0.1:{port}" for port in sentinels)
        url = f"{self.scheme}+sentinel://{self.login}{hosts}/{SERVICE}/0{self.sentinel_query}"
        with ExitStack() as stack:
            process = stack.enter_context(self.server(primary, *self.data))
            for port in copies:
                stack.enter_context(self.server(port, f"replicaof 127.0.0.1 {primary}", *self.data))
            async with self.connected(f"{self.scheme}://{self.login}127.0.0.1:{primary}/0") as client:
                await until_true(client, lambda server: _are_caught_up(server, replicas))
            for port in sentinels:
                stack.enter_context(self.server(port, *watch))
            async with self.connected(url) as client:
                await until_true(client, lambda server: _know_all(server, replicas))
            yield url, process

    @asynccontextmanager
    async def cluster(self, nodes: int, replicas: int = 0) -> AsyncIterator[tuple[str, list[subprocess.Popen[bytes]]]]:
        """The URL of one node, once all agree, and the processes of the primaries. Each of these has its part of the slots, and
        so many replicas."""
        count = nodes * (1 + replicas)
        ports, bus = free_ports(count), free_ports(count)
        part = -(-SLOTS // nodes)
        async with AsyncExitStack() as stack:
            processes = [
                stack.enter_context(
                    self.server(port, "cluster-enabled yes", f"cluster-port {other}", "cluster-node-timeout 1000", *self.data)
                )
                for port, other in zip(ports, bus, strict=True)
            ]
            urls = [f"{self.scheme}://{self.login}127.0.0.1:{port}/0" for port in ports]
            clients = [await stack.enter_async_context(self.connected(url)) for url in urls]
            for index, node in enumerate(clients):
                await until_true(node, _answers)
                if index < nodes:
                    await _command(node, "CLUSTER", "ADDSLOTSRANGE", index * part, min(SLOTS, (index + 1) * part) - 1)
                await _command(node, "CLUSTER", "MEET", "127.0.0.1", ports[0], bus[0])
            for node in clients:
                await until_true(node, lambda server: _knows_all_nodes(server, nodes, count))
            for index, node in enumerate(clients[nodes:]):
                primary = await _command(clients[index % nodes], "CLUSTER", "MYID")
                assert isinstance(primary, bytes)
                await _command(node, "CLUSTER", "REPLICATE", primary.decode())
            for node in clients[:nodes]:
                await until_true(node, lambda server: _are_caught_up(server, replicas))
            for node in clients:
                await until_true(node, lambda server: _knows_all_replicas(server, nodes * replicas))
            yield f"{self.scheme}+cluster://{self.login}127.0.0.1:{ports[0]},127.0.0.1:{ports[-1]}", processes[:nodes]

    @asynccontextmanager
    async def connected(self, url: str) -> AsyncIterator[RedisClient]:
        client = connect_redis(url, self.settings, SystemClock())
        try:
            yield client
        finally:
            await client.close()


async def until_true(client: RedisClient, condition: Callable[[Server], Awaitable[bool]]) -> None:
    """A server that does not answer is asked again."""
    async with asyncio.timeout(30):
        while True:
            try:
                if await client.execute(condition):
                    return
            except StoreUnavailable:
                pass
            await asyncio.sleep(0.05)


async def _answers(server: Server) -> bool:
    return bool(await server.execute_command("PING"))


async def _command(client: RedisClient, *words: str | int) -> object:
    return await client.execute(lambda server: server.execute_command(*words))


async def _are_caught_up(server: Server, replicas: int) -> bool:
    found = await server.info("replication")
    each = [found.get(f"slave{number}", {}) for number in range(replicas)]
    return all(replica.get("state") == "online" and replica.get("offset") == found["master_repl_offset"] for replica in each)


async def _knows_all_nodes(server: Server, primaries: int, nodes: int) -> bool:
    information: Any = await server.execute_command("CLUSTER INFO")
    slots: Any = await server.execute_command("CLUSTER SLOTS")
    is_whole = information["cluster_state"] == "ok" and len(slots) == primaries
    return is_whole and int(information["cluster_known_nodes"]) == nodes


async def _knows_all_replicas(server: Server, replicas: int) -> bool:
    nodes: Any = await server.execute_command("CLUSTER NODES")
    return sum("slave" in node["flags"] for node in nodes.values()) == replicas


async def _know_all(server: Server, replicas: int) -> bool:
    """Sentinels agree on no new primary before they know the replicas and each other."""
    assert isinstance(server, Redis)
    pool: Any = server.connection_pool
    found: list[Any] = [await sentinel.sentinel_master(SERVICE) for sentinel in pool.sentinel_manager.sentinels]
    return all(each["num-slaves"] == replicas and each["num-other-sentinels"] == len(found) - 1 for each in found)


def _tls_lines(port: int, tls: TlsFiles) -> list[str]:
    return [
        "port 0",
        f"tls-port {port}",
        f"tls-cert-file {tls.certificate}",
        f"tls-key-file {tls.key}",
        f"tls-ca-cert-file {tls.authority}",
        "tls-auth-clients no",
        "tls-replication yes",
        "tls-cluster yes",
    ]
