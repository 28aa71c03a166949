"""A PostgreSQL cluster for tests, drills and benchmarks: a primary with streaming replicas, on the binaries that the server uses.

It does what a supervisor of PostgreSQL does: it promotes the replica that has received most, and brings an old primary back with
pg_rewind. Every replica knows all addresses and follows whichever server takes writes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil

from app.db.migrate import migrate
from app.embedded.account import Account, choose_account
from app.embedded.binaries import find_postgres
from tests.processes import family, frozen, kill_all, wait_gone, wait_until
from tests.redis_servers import free_ports

HOST = "127.0.0.1"
DATABASE = "greenlang"
SUPERUSER, SERVICE, PASSWORD = "greenlang", "serving", "a-password-of-tests"
_READY_SECONDS = 30.0
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "120",
    "shared_buffers": "16MB",
    "wal_log_hints": "on",
    "wal_keep_size": "256MB",
    "wal_receiver_timeout": "3s",
    "wal_retrieve_retry_interval": "100ms",
    "fsync": "off",
    "full_page_writes": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass
class Node:
    """One server of the cluster. `name` is also the name by which a primary knows its standby."""

    name: str
    port: int
    folder: Path
    bin: Path
    account: Account
    settings: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def url(self, role: str = SERVICE, database: str = DATABASE) -> str:
        return f"postgresql://{role}:{PASSWORD}@{self.address}/{database}"

    @asynccontextmanager
    async def connected(self, role: str = SUPERUSER, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.url(role, database), timeout=5, command_timeout=30, statement_cache_size=0)
        try:
            yield connection
        finally:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await connection.close(timeout=2)

    async def execute(self, *statements: str) -> None:
        async with self.connected() as connection:
            for statement in statements:
                await connection.execute(statement)

    async def value(self, query: str) -> object:
        async with self.connected() as connection:
            return await connection.fetchval(query)

    def run(self, program: str, *arguments: str | Path) -> None:
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        command = [*self.account.prefix, self.bin / program, *arguments]
        done = subprocess.run(command, env=environment, cwd=self.folder.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{program}: {done.stderr or done.stdout}"

    def start(self) -> None:
        """Returns when it answers."""
        assert self.process is None
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        log = (self.folder.parent / f"{self.name}.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [*self.account.prefix, self.bin / "postgres", "-D", self.folder], cwd=self.folder, stdout=log, stderr=log
            )
        wait_until(self._is_ready, _READY_SECONDS)

    def stop(self) -> None:
        """In order, as an operator would."""
        self.end(signal.SIGINT)

    def kill(self) -> None:
        """All its processes, at once."""
        assert self.process is not None
        everything = family(self.process.pid)
        kill_all(everything)
        self._wait(everything)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        assert self.process is not None
        with frozen(family(self.process.pid)):
            yield

    def end(self, sign: signal.Signals) -> None:
        if self.process is None:
            return
        everything = family(self.process.pid)
        self.process.send_signal(sign)
        self._wait(everything)

    def _wait(self, everything: list[psutil.Process]) -> None:
        assert self.process is not None
        self.process.wait(20)
        wait_gone(everything)
        self.process = None

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} did not start: {self.folder.parent / self.name}.log"
        with suppress(FileNotFoundError):
            lines = (self.folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            return len(lines) > 7 and lines[0] == str(self.process.pid) and lines[7].strip() in {"ready", "standby"}
        return False


@dataclass
class Cluster:
    nodes: Sequence[Node]
    primary: Node = field(init=False)

    def __post_init__(self) -> None:
        self.primary = self.nodes[0]

    @property
    def replicas(self) -> list[Node]:
        return [node for node in self.nodes if node is not self.primary]

    def url(self, role: str = SERVICE) -> str:
        """All hosts in one URL, as an operator would name them."""
        return f"postgresql://{role}:{PASSWORD}@{','.join(node.address for node in self.nodes)}/{DATABASE}"

    async def require_acknowledgement(self) -> None:
        """From now on, a commit waits until any one standby has it (`ANY 1`). Replicas have the same setting for the day of
        their promotion."""
        for node in self.nodes:
            others = ", ".join(f'"{other.name}"' for other in self.nodes if other is not node)
            await node.execute(f"alter system set synchronous_standby_names = 'ANY 1 ({others})'", "select pg_reload_conf()")

    async def promote(self) -> Node:
        """Promotes the replica that has received most, as a supervisor does when the primary is gone, and returns it. The other
        replicas get its address, because one that is connected to a frozen server does not let go of it."""
        received: dict[str, int] = {}
        for node in self.replicas:
            with suppress(OSError, asyncpg.PostgresError, TimeoutError):
                found = await asyncio.wait_for(node.value(_RECEIVED), 2)
                received[node.name] = int(str(found))
        chosen = next(node for node in self.nodes if node.name == max(received, key=lambda name: received[name]))
        assert await chosen.value("select pg_promote(true, 10)")
        self.primary = chosen
        for node in self.replicas:
            if node.name in received:
                follows = _conninfo(node, [chosen])
                await node.execute(f"alter system set primary_conninfo = '{follows}'", "select pg_reload_conf()")
        return chosen

    def bring_back(self, node: Node) -> None:
        """Makes a dead old primary a replica of the present one, under its old address."""
        assert node.process is None
        source = f"host={HOST} port={self.primary.port} user={SUPERUSER} dbname=postgres"
        (node.folder / "postmaster.pid").unlink(missing_ok=True)
        lines = (node.folder / "postgresql.auto.conf").read_text(encoding="utf-8").splitlines(keepends=True)
        own = "".join(line for line in lines if not line.startswith("primary_conninfo"))
        node.run("pg_rewind", "--target-pgdata", node.folder, "--source-server", source)
        (node.folder / "postgresql.auto.conf").write_text(own, encoding="utf-8")
        _configure(node, self.nodes)
        (node.folder / "standby.signal").touch()
        node.start()

    async def caught_up(self, seconds: float = 20.0) -> None:
        """Returns when every replica that runs has replayed what the primary has written until now."""
        target = await self.primary.value("select pg_current_wal_flush_lsn()::text")
        deadline = time.monotonic() + seconds
        for node in self.replicas:
            while node.process is not None and not await node.value(f"select pg_last_wal_replay_lsn() >= '{target}'::pg_lsn"):
                assert time.monotonic() < deadline, f"{node.name} does not catch up"
                await asyncio.sleep(0.02)

    def close(self) -> None:
        for node in self.nodes:
            if node.process is not None:
                with suppress(psutil.NoSuchProcess):
                    for process in family(node.process.pid):
                        process.resume()
                node.end(signal.SIGQUIT)


_RECEIVED = "select (coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn)::text"
_ROLES = (
    f"create role {SERVICE} login password '{PASSWORD}'",
    f"create database {DATABASE} owner {SERVICE}",
)


@contextmanager
def running_cluster(count: int = 3, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A primary and `count - 1` replicas with a migrated database. Do not call it in a running event loop."""
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    binaries = find_postgres(None)
    account = choose_account(folder, binaries.bin / "postgres")
    ports = free_ports(count)
    nodes = [
        Node(f"node{place}", port, folder / f"node{place}", binaries.bin, account, settings or {})
        for place, port in enumerate(ports, start=1)
    ]
    cluster = Cluster(nodes)
    try:
        _make_primary(nodes)
        for node in nodes[1:]:
            _make_replica(node, nodes)
        asyncio.run(cluster.caught_up())
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def _make_primary(nodes: Sequence[Node]) -> None:
    primary = nodes[0]
    password = primary.folder.parent / "password"
    password.write_text(PASSWORD, encoding="utf-8")
    primary.run(
        "initdb", "-D", primary.folder, "-U", SUPERUSER, f"--pwfile={password}", "--auth=scram-sha-256", "-E", "UTF8",
        "--no-locale", "--no-sync",
    )  # fmt: skip
    _configure(primary, nodes)
    primary.start()
    asyncio.run(primary.execute(*_ROLES))
    asyncio.run(migrate(primary.url()))


def _make_replica(node: Node, nodes: Sequence[Node]) -> None:
    source = f"host={HOST} port={nodes[0].port} user={SUPERUSER}"
    node.run("pg_basebackup", "-D", node.folder, "-d", source, "-X", "stream", "-c", "fast", "--no-sync")
    node.folder.chmod(0o700)
    _configure(node, nodes)
    (node.folder / "standby.signal").touch()
    node.start()


def _configure(node: Node, nodes: Sequence[Node]) -> None:
    """A replica follows whichever server takes writes: the address list of a supervisor."""
    follows = _conninfo(node, nodes)
    settings = _SETTINGS | dict(node.settings) | {"port": str(node.port), "primary_conninfo": follows}
    lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
    (node.folder / "postgresql.conf").write_text(lines, encoding="utf-8")


def _conninfo(node: Node, servers: Sequence[Node]) -> str:
    hosts, ports = ",".join([HOST] * len(servers)), ",".join(str(server.port) for server in servers)
    return (
        f"host={hosts} port={ports} user={SUPERUSER} password={PASSWORD} application_name={node.name}"
        " target_session_attrs=read-write connect_timeout=2"
    )
