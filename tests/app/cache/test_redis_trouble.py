"""The Redis tiers over every kind of server, and what a server in trouble costs: a miss, no more than the time limit, and one
line in the log for each change of state."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from app.cache.entries import EntryCodec
from app.cache.invalidations import Invalidations, Selector, SelectorKind
from app.cache.keys import EntryKey
from app.cache.redis import RedisTier
from app.cache.tiered import PlacedTier, TieredCache
from app.domain.errors import StoreUnavailable
from app.domain.usage import CacheTier
from app.redis.clients import connect_redis
from app.runtime.clock import SystemClock
from app.settings import RedisSettings
from tests.app.cache.cached import a_key, an_entry
from tests.app.cache.conftest import DAY, figures
from tests.app.redis.test_tls import PROGRAM, certificates, has_tls
from tests.certificates import TlsFiles
from tests.gates import Gate
from tests.redis_servers import RedisServers, free_ports

pytestmark = [pytest.mark.anyio, pytest.mark.drill]
__all__ = ["certificates"]

SOCKET_TIMEOUT = timedelta(seconds=1)
PATIENT = timedelta(seconds=5)
MAX_SECONDS = SOCKET_TIMEOUT.total_seconds() + 0.8
"""The limit of a caller, and what a busy machine adds."""
KEYS = 12
"""Of as many tenants: enough to reach every node of a cluster."""
EVERYTHING = Selector(SelectorKind.EVERYTHING)


@asynccontextmanager
async def redis_tier(
    url: str, codec: EntryCodec, tls_ca: Path | None = None, socket_timeout: timedelta = SOCKET_TIMEOUT
) -> AsyncIterator[RedisTier]:
    settings = RedisSettings(socket_timeout=socket_timeout, tls_ca=tls_ca)
    client = connect_redis(url, settings, SystemClock(), setting="cache.shared.url")
    yield RedisTier(CacheTier.SHARED_REDIS, client, codec, SystemClock(), max_seconds=DAY, is_alone=False)
    await client.close()


@dataclass
class Watched:
    """A cache with one tier, and the longest that a caller has waited."""

    cache: TieredCache
    longest: float = 0.0

    async def get(self, key: EntryKey) -> bool:
        begun = time.monotonic()
        found = await self.cache.get(key) is not None
        self.longest = max(self.longest, time.monotonic() - begun)
        return found

    async def filled(self) -> EntryKey:
        key = a_key()
        await self.cache.put(key, an_entry(b"x" * 2000))
        await self.cache.flush()
        return key

    async def until_it_gives(self, entries: int = 1) -> None:
        """Returns once so many new ones, of as many tenants, are given one after the other."""
        async with asyncio.timeout(40):
            given = 0
            while given < entries:
                given = given + 1 if await self.get(await self.filled()) else 0


MakeCache: TypeAlias = Callable[[str], AbstractAsyncContextManager[Watched]]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelname != "DEBUG" and record.name.startswith("app.")]


@pytest.fixture(params=["alone", "sentinel", "cluster"])
def topology(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@asynccontextmanager
async def servers_of(topology: str, servers: RedisServers) -> AsyncIterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The URL, and the primaries that others can replace: of 1 + 2 with 3 Sentinels, or of a cluster of 3 + 3."""
    async with AsyncExitStack() as stack:
        match topology:
            case "alone":
                yield await stack.enter_async_context(servers.alone()), []
            case "sentinel":
                url, primary = await stack.enter_async_context(servers.watched(replicas=2))
                yield url, [primary]
            case _:
                yield await stack.enter_async_context(servers.cluster(nodes=3, replicas=1))


async def shows_all_that_a_tier_does(tier: RedisTier) -> None:
    """On many names of several tenants, so that a command over several slots would be refused by a cluster."""
    for tenant in ("acme", "globex", "{initech}"):
        keys = [a_key(tenant) for _ in range(40)]
        await asyncio.gather(*(tier.put(key, an_entry(tags=("news",)), 60) for key in keys))
        found = await asyncio.gather(*(tier.get(key) for key in keys))
        assert all(found)
        assert await tier.tags_by_name(tenant) == {key.name: ["news"] for key in keys}
        await tier.remove(tenant, [key.name for key in keys[1:]])
        assert await tier.tags_by_name(tenant) == {keys[0].name: ["news"]}
        assert await tier.get(keys[1]) is None
    assert (await tier.size()).evictions == 0


async def ready(tier: RedisTier) -> None:
    """Connections exist, so that the time limit of a caller is for its own command."""
    async with asyncio.timeout(30):
        while True:
            try:
                await tier.put(a_key("nobody"), an_entry(), 60)
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


@pytest.fixture
def servers(tmp_path: Path) -> RedisServers:
    return RedisServers.embedded(tmp_path)


@pytest.fixture
def made(codec: EntryCodec, invalidations: Invalidations) -> MakeCache:
    """Makes a cache whose only tier is at a URL, once it answers."""

    @asynccontextmanager
    async def make(url: str) -> AsyncIterator[Watched]:
        async with redis_tier(url, codec) as tier:
            await ready(tier)
            yield Watched(TieredCache([PlacedTier(tier, timedelta(hours=1))], invalidations, SystemClock(), figures()))

    return make


class TestEveryTopology:
    async def test_does_all_that_a_tier_does(self, topology: str, servers: RedisServers, codec: EntryCodec) -> None:
        async with servers_of(topology, servers) as (url, _), redis_tier(url, codec, socket_timeout=PATIENT) as tier:
            await ready(tier)
            await shows_all_that_a_tier_does(tier)

    @pytest.mark.skipif(not has_tls(), reason="the system has no redis-server, or one without TLS; the embedded Valkey has none")
    async def test_does_it_over_tls(self, topology: str, tmp_path: Path, codec: EntryCodec, certificates: TlsFiles) -> None:
        assert PROGRAM is not None
        servers = RedisServers(tmp_path, Path(PROGRAM), certificates)
        async with servers_of(topology, servers) as (url, _), redis_tier(url, codec, certificates.authority, PATIENT) as tier:
            await ready(tier)
            await shows_all_that_a_tier_does(tier)

    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
    @pytest.mark.parametrize("topology", ["sentinel", "cluster"])
    async def test_follows_a_failover_and_no_caller_waits_for_it(
        self, topology: str, end: signal.Signals, servers: RedisServers, made: MakeCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with servers_of(topology, servers) as (url, primaries), made(url) as watched:
            await watched.until_it_gives(KEYS)
            caplog.clear()
            for primary in primaries[:1]:
                primary.send_signal(end)
            assert not all([await watched.get(await watched.filled()) for _ in range(KEYS)])
            await watched.until_it_gives(KEYS)
            assert watched.longest < MAX_SECONDS
            assert lines(caplog) in ([], ["Redis does not answer", "Redis answers again"])


@pytest.fixture
async def watched(
    server: tuple[int, subprocess.Popen[bytes]], made: MakeCache, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Watched]:
    async with made(f"redis://127.0.0.1:{server[0]}/0") as cache:
        caplog.clear()
        yield cache


@pytest.fixture
def server(servers: RedisServers) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    (port,) = free_ports(1)
    with servers.server(port, "maxmemory 20mb", "maxmemory-policy noeviction") as process:
        yield port, process


class TestAServerThatIs:
    async def test_frozen_is_a_miss_and_is_back_with_what_it_had(
        self, server: tuple[int, subprocess.Popen[bytes]], watched: Watched, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = await watched.filled()
        server[1].send_signal(signal.SIGSTOP)
        for _ in range(3):
            assert await asyncio.gather(*(watched.get(key) for _ in range(20))) == [False] * 20
        assert watched.longest < MAX_SECONDS
        watched.longest = 0.0
        for _ in range(200):
            await watched.filled()
            assert not await watched.get(key)
        assert lines(caplog) == ["Redis does not answer"]
        server[1].send_signal(signal.SIGCONT)
        await watched.until_it_gives()
        assert await watched.get(key)
        assert lines(caplog) == ["Redis does not answer", "Redis answers again"]

    async def test_full_is_a_miss_for_what_is_new_and_gives_what_it_has(
        self, server: tuple[int, subprocess.Popen[bytes]], watched: Watched, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = await watched.filled()
        with Redis(port=server[0]) as raw:
            raw.config_set("maxmemory", 1)
            for _ in range(50):
                assert not await watched.get(await watched.filled())
                assert await watched.get(key)
            assert lines(caplog) == ["Redis takes no writes"]
            assert await watched.cache.invalidate(key.tenant, EVERYTHING) == 1
            await watched.cache.flush()
            assert raw.exists(*raw.keys(f"*{key.name}") or ["gone"]) == 0
            raw.config_set("maxmemory", 0)
        await watched.until_it_gives()
        assert lines(caplog) == ["Redis takes no writes", "Redis takes writes again"]

    async def test_loading_is_a_miss(
        self, server: tuple[int, subprocess.Popen[bytes]], tmp_path: Path, watched: Watched, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = await watched.filled()
        with Redis(port=server[0]) as raw:
            raw.mset({f"ballast:{number}": "x" for number in range(2000)})
            raw.save()
        shutil.copy(tmp_path / str(server[0]) / "dump.rdb", tmp_path / "dump.rdb")
        with Redis(port=server[0], retry=Retry(NoBackoff(), 0)) as raw, loading(server, tmp_path):
            until_true(lambda: loads(raw))
            for _ in range(50):
                assert not await watched.get(key)
                await watched.filled()
            assert loads(raw)
            assert watched.longest < MAX_SECONDS
            assert lines(caplog) == ["Redis does not answer"]
            await watched.until_it_gives()
            assert await watched.get(key)
            assert lines(caplog) == ["Redis does not answer", "Redis answers again"]

    async def test_slow_is_waited_for_up_to_the_limit(
        self, server: tuple[int, subprocess.Popen[bytes]], made: MakeCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = Gate(server[0])
        await gate.open()
        async with made(f"redis://127.0.0.1:{gate.port}/0") as watched:
            key = await watched.filled()
            caplog.clear()
            gate.delay_seconds = SOCKET_TIMEOUT.total_seconds() / 3
            assert all([await watched.get(key) for _ in range(5)])
            gate.delay_seconds = SOCKET_TIMEOUT.total_seconds() * 4
            for _ in range(20):
                assert not await watched.get(key)
            assert watched.longest < MAX_SECONDS
            assert lines(caplog) == ["Redis does not answer"]
            gate.delay_seconds = 0.0
            await watched.until_it_gives()
            assert await watched.get(key)
        await gate.close()


def loads(raw: Redis) -> bool:
    try:
        raw.ping()
    except BusyLoadingError:
        return True
    except RedisConnectionError:
        return False
    return False


def until_true(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def loading(server: tuple[int, subprocess.Popen[bytes]], folder: Path) -> Iterator[None]:
    """The server ends, and another one with the same port reads what it had, slowly."""
    port, process = server
    process.kill()
    process.wait()
    another = folder / "another"
    another.mkdir()
    shutil.copy(folder / "dump.rdb", another)
    options = ("key-load-delay 1500", "loading-process-events-interval-bytes 1024")
    with RedisServers.embedded(another).server(port, *options, f"dir {another}"):
        yield
