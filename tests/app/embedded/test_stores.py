"""Private stores as real processes: started, asked, killed, started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.embedded.stores import PrivateStores, StoresFailed
from tests.processes import command, family, kill_all, named, wait_gone, wait_until

pytestmark = pytest.mark.drill

_HOLD = """
import sys, time
from pathlib import Path
from app.embedded.stores import PrivateStores
stores = PrivateStores.launch(Path(sys.argv[1]))
stores.wait()
print("ready", flush=True)
time.sleep(600)
"""


def execute(stores: PrivateStores, statement: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(stores.owner.reveal(), timeout=5)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


def answers(stores: PrivateStores) -> bool:
    try:
        return execute(stores, "select 1") == 1
    except (OSError, asyncpg.PostgresError):
        return False


def redis(stores: PrivateStores) -> Redis:
    return Redis.from_url(stores.redis.reveal(), socket_timeout=5)


@pytest.fixture(scope="module")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateStores]:
    """On a folder that was not there."""
    launched = PrivateStores.launch(tmp_path_factory.mktemp("first") / "a folder" / "data")
    launched.wait()
    yield launched
    launched.stop()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that was used before."""
    launched = PrivateStores.launch(tmp_path_factory.mktemp("stopped"))
    launched.wait()
    launched.stop()
    return launched.data_dir


@pytest.fixture
def data_dir(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "a folder" / "data")


@pytest.fixture
def stores(data_dir: Path) -> Iterator[PrivateStores]:
    launched = PrivateStores.launch(data_dir)
    launched.wait()
    yield launched
    launched.stop()


@pytest.fixture
def other_owner(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that launched the stores and holds them."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, data_dir], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


class TestFirstStart:
    def test_both_answer(self, first_start: PrivateStores) -> None:
        assert execute(first_start, "select current_setting('server_version_num')::int >= 150000") is True
        assert redis(first_start).ping()

    def test_what_is_kept_is_for_its_owner_alone(self, first_start: PrivateStores) -> None:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (first_start.data_dir, *first_start.data_dir.iterdir())}
        assert {name for name, mode in modes.items() if mode & 0o077} == set()

    def test_no_one_enters_without_the_password(self, first_start: PrivateStores) -> None:
        wrong = first_start.database.reveal().replace("://greenlang_service:", "://greenlang_service:x")
        with pytest.raises(asyncpg.InvalidPasswordError):
            asyncio.run(asyncpg.connect(wrong, timeout=5))
        assert b"NOAUTH" in _ask(redis(first_start))

    def test_no_password_is_seen_from_outside(self, first_start: PrivateStores) -> None:
        commands = " ".join(word for process in family(first_start.store_supervisor.pid) for word in command(process))
        assert first_start.database.reveal().split(":")[2].partition("@")[0] not in commands
        assert first_start.redis.reveal().split(":")[2].partition("@")[0] not in commands

    def test_they_listen_on_loopback_alone(self, first_start: PrivateStores) -> None:
        listening: set[str] = set()
        for process in family(first_start.store_supervisor.pid):
            with suppress(psutil.NoSuchProcess):  # PostgreSQL's workers come and go
                found = process.net_connections()
                listening |= {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}


def _ask(client: Redis) -> bytes:
    """What Valkey says to one who does not give the password."""
    host, port = client.connection_pool.connection_kwargs["host"], client.connection_pool.connection_kwargs["port"]
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(100)


class TestStartedAgain:
    def test_data_and_addresses_are_kept(self, data_dir: Path) -> None:
        addresses = []
        for _ in range(2):
            stores = PrivateStores.launch(data_dir)
            stores.wait()
            addresses.append((stores.database.reveal(), stores.redis.reveal()))
            execute(stores, "create table if not exists kept (number int)")
            execute(stores, "insert into kept values (1)")
            redis(stores).incr("kept")
            seen = (execute(stores, "select count(*) from kept"), redis(stores).get("kept"))
            stores.stop()
        assert seen == (2, b"2")
        assert addresses[0] == addresses[1]

    def test_a_port_that_was_taken_meanwhile_is_replaced(self, data_dir: Path) -> None:
        first = PrivateStores.launch(data_dir)
        first.wait()
        port = int(first.redis.reveal().rpartition(":")[2].partition("/")[0])
        first.stop()
        with socket.create_server(("127.0.0.1", port)):
            second = PrivateStores.launch(data_dir)
            second.wait()
            try:
                assert redis(second).ping()
                assert f":{port}/" not in second.redis.reveal()
            finally:
                second.stop()

    def test_a_stale_pid_file_is_no_obstacle(self, data_dir: Path) -> None:
        first = PrivateStores.launch(data_dir)
        first.wait()
        first.stop()
        (data_dir / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{data_dir}/postgres\n", encoding="utf-8")
        second = PrivateStores.launch(data_dir)
        second.wait()
        try:
            assert answers(second)
        finally:
            second.stop()

    def test_data_of_a_postgresql_that_is_not_here_are_left_alone(self, data_dir: Path) -> None:
        version = data_dir / "postgres" / "PG_VERSION"
        version.write_text("12\n", encoding="utf-8")
        stores = PrivateStores.launch(data_dir)
        with pytest.raises(
            StoresFailed, match=r"was made by PostgreSQL 12, and this machine has PostgreSQL \d+; install PostgreSQL 12 again"
        ):
            stores.wait()
        assert version.read_text(encoding="utf-8") == "12\n"


class TestStopped:
    def test_nothing_is_left(self, data_dir: Path) -> None:
        stores = PrivateStores.launch(data_dir)
        stores.wait()
        everything = family(stores.store_supervisor.pid)
        stores.stop()
        wait_gone(everything, 1)


class TestLauncherKilled:
    def test_the_stores_end_with_it(self, other_owner: subprocess.Popen[str]) -> None:
        everything = family(other_owner.pid)
        other_owner.kill()
        wait_gone(everything)

    def test_a_new_owner_starts_at_once_on_the_same_data(self, data_dir: Path, other_owner: subprocess.Popen[str]) -> None:
        other_owner.kill()
        stores = PrivateStores.launch(data_dir)
        stores.wait()
        try:
            assert answers(stores)
        finally:
            stores.stop()


class TestEverythingKilled:
    def test_the_next_start_recovers(self, data_dir: Path, other_owner: subprocess.Popen[str]) -> None:
        holder = PrivateStores(data_dir, other_owner)
        execute(holder, "create table kept as select 1 as number")
        everything = family(other_owner.pid)
        kill_all(everything)
        wait_gone(everything)
        stores = PrivateStores.launch(data_dir)
        stores.wait()
        try:
            assert execute(stores, "select number from kept") == 1
        finally:
            stores.stop()


class TestStoreSupervisorKilled:
    def test_the_stores_end_with_it(self, stores: PrivateStores) -> None:
        everything = family(stores.store_supervisor.pid)
        stores.store_supervisor.kill()
        wait_gone(everything[1:])


class TestOneStoreKilled:
    def test_postgresql_comes_back_at_the_same_address(self, stores: PrivateStores) -> None:
        url = stores.database.reveal()
        (postmaster,) = named(psutil.Process(stores.store_supervisor.pid).children(), "postgres")
        postmaster.kill()
        wait_until(lambda: not postmaster.is_running())
        wait_until(lambda: answers(stores))
        assert stores.database.reveal() == url

    def test_valkey_comes_back_with_what_it_knew(self, stores: PrivateStores) -> None:
        redis(stores).set("kept", "yes")
        (server,) = named(psutil.Process(stores.store_supervisor.pid).children(), "valkey")
        server.kill()
        wait_until(lambda: not server.is_running())
        wait_until(lambda: _pings(stores))
        assert redis(stores).get("kept") == b"yes"


def _pings(stores: PrivateStores) -> bool:
    try:
        return bool(redis(stores).ping())
    except RedisConnectionError:
        return False


class TestTerminalSignals:
    def test_they_are_for_the_owner_to_act_on(self, stores: PrivateStores) -> None:
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            stores.store_supervisor.send_signal(sign)
        assert answers(stores)
        assert stores.store_supervisor.poll() is None


class TestOnlyOneStoreWanted:
    def test_the_other_is_not_started(self, data_dir: Path) -> None:
        stores = PrivateStores.launch(data_dir, valkey=False)
        stores.wait()
        try:
            assert named(family(stores.store_supervisor.pid)[1:], "valkey") == []
        finally:
            stores.stop()
