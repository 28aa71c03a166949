"""The Valkey of the cache as a real process: beside the other one, full, killed, started again."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from app.embedded.stores import PrivateStores
from tests.processes import family, folder, wait_gone, wait_until

pytestmark = pytest.mark.drill

MAX_BYTES = 8 * 2**20
_HOLD = f"""
import sys, time
from pathlib import Path
from app.embedded.stores import PrivateStores
stores = PrivateStores.launch(Path(sys.argv[1]), postgres=False, cache_bytes={MAX_BYTES})
stores.wait()
print("ready", flush=True)
time.sleep(600)
"""


def launch(data_dir: Path) -> PrivateStores:
    launched = PrivateStores.launch(data_dir, postgres=False, cache_bytes=MAX_BYTES)
    launched.wait()
    return launched


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[PrivateStores]:
    launched = launch(tmp_path / "data")
    yield launched
    launched.stop()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that launched the stores and holds them."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, tmp_path / "data"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def cache(stores: PrivateStores) -> Redis:
    return Redis.from_url(stores.cache.reveal(), socket_timeout=5)


def coordination(stores: PrivateStores) -> Redis:
    return Redis.from_url(stores.redis.reveal(), socket_timeout=5)


def process_of(stores: PrivateStores) -> psutil.Process:
    (found,) = [each for each in psutil.Process(stores.store_supervisor.pid).children() if folder(each) == "valkey-cache"]
    return found


class TestCacheValkey:
    def test_evicts_at_its_maximum_and_leaves_the_other_one_alone(self, stores: PrivateStores) -> None:
        coordination(stores).set("limit", "kept")
        client = cache(stores)
        for number in range(4000):
            client.set(f"entry:{number}", b"x" * 10_000)
        figures = {**client.info("memory"), **client.info("stats")}
        assert figures["maxmemory"] == MAX_BYTES
        assert figures["used_memory_dataset"] < MAX_BYTES
        assert figures["evicted_keys"] > 3000
        assert client.get("entry:3999") is not None
        assert client.get("entry:0") is None
        other = coordination(stores)
        assert other.get("limit") == b"kept"
        assert other.dbsize() == 1
        assert other.info("memory")["maxmemory_policy"] == "noeviction"

    def test_has_a_password_and_an_address_of_its_own(self, stores: PrivateStores) -> None:
        assert stores.cache.file is not None
        assert stat.S_IMODE(stores.cache.file.stat().st_mode) == 0o600
        own, others = stores.cache.reveal(), stores.redis.reveal()
        assert own.rpartition(":")[2] != others.rpartition(":")[2]
        with pytest.raises(AuthenticationError):
            Redis.from_url(
                own.rpartition("@")[0].replace(own.split(":")[2].partition("@")[0], "x") + "@" + own.rpartition("@")[2]
            ).ping()
        with pytest.raises(AuthenticationError):
            Redis.from_url(f"{others.rpartition('@')[0]}@{own.rpartition('@')[2]}").ping()

    def test_stores_nothing_on_disk_and_keeps_its_address_over_restarts(self, tmp_path: Path) -> None:
        addresses = []
        for _ in range(2):
            stores = launch(tmp_path / "data")
            addresses.append(stores.cache.reveal())
            assert cache(stores).dbsize() == 0
            cache(stores).set("entry", "x")
            coordination(stores).incr("restarts")
            kept = coordination(stores).get("restarts")
            stores.stop()
            assert [file.name for file in (stores.data_dir / "valkey-cache").iterdir()] == ["valkey.conf"]
        assert addresses[0] == addresses[1]
        assert kept == b"2"

    def test_comes_back_at_the_same_address_if_it_is_killed(self, stores: PrivateStores) -> None:
        killed = process_of(stores)
        killed.kill()
        wait_until(lambda: not killed.is_running())
        wait_until(lambda: _pings(stores))
        assert process_of(stores).pid != killed.pid

    def test_ends_with_a_launcher_that_is_killed_and_the_next_one_starts(
        self, tmp_path: Path, holder: subprocess.Popen[str]
    ) -> None:
        everything = family(holder.pid)
        assert "valkey-cache" in {folder(each) for each in everything}
        holder.kill()
        wait_gone(everything)
        stores = launch(tmp_path / "data")
        assert _pings(stores)
        stores.stop()

    def test_has_a_log_of_its_own(self, stores: PrivateStores) -> None:
        assert "Ready to accept connections" in (stores.data_dir / "log" / "valkey-cache.log").read_text(encoding="utf-8")

    def test_does_not_run_unless_it_is_wanted(self, tmp_path: Path) -> None:
        stores = PrivateStores.launch(tmp_path / "data", postgres=False)
        stores.wait()
        try:
            assert "valkey-cache" not in {folder(each) for each in family(stores.store_supervisor.pid)}
            assert not stores.has_cache
        finally:
            stores.stop()


def _pings(stores: PrivateStores) -> bool:
    try:
        return bool(cache(stores).ping())
    except RedisConnectionError:
        return False
