"""TLS to one server, through Sentinel and in a cluster: on the system's Redis, because the embedded Valkey has no TLS."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from app.domain.errors import SettingsError, StoreUnavailable
from app.redis.clients import RedisClient, Script, connect_redis
from app.runtime.clock import SystemClock
from app.settings import RedisSettings
from tests.certificates import TlsFiles, make_certificates
from tests.redis_servers import RedisServers

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")


def has_tls() -> bool:
    """A server without TLS does not know the option."""
    if PROGRAM is None:
        return False
    tried = [PROGRAM, "--port", "0", "--tls-port", "1", "--tls-cert-file", "/nonexistent"]
    ran = subprocess.run(tried, capture_output=True, text=True, check=False, timeout=10)
    return "Bad directive" not in ran.stdout + ran.stderr


pytestmark = [
    pytest.mark.anyio,
    pytest.mark.drill,
    pytest.mark.skipif(not has_tls(), reason="the system has no redis-server, or one without TLS; the embedded Valkey has none"),
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_certificates(tmp_path_factory.mktemp("tls") / "own", "own")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_certificates(tmp_path_factory.mktemp("tls") / "foreign", "foreign")


@pytest.fixture(params=["alone", "sentinel", "cluster"])
async def url(request: pytest.FixtureRequest, certificates: TlsFiles, tmp_path: Path) -> AsyncIterator[str]:
    """Of servers that take TLS connections only."""
    assert PROGRAM is not None
    servers = RedisServers(tmp_path, Path(PROGRAM), certificates)
    async with AsyncExitStack() as stack:
        match request.param:
            case "alone":
                yield await stack.enter_async_context(servers.alone())
            case "sentinel":
                yield (await stack.enter_async_context(servers.watched(replicas=2)))[0]
            case _:
                yield (await stack.enter_async_context(servers.cluster(nodes=3)))[0]


async def counts(client: RedisClient, keys: int) -> list[object]:
    """By a script on each key, all at once, and again until the servers are found."""
    script = Script("peers")
    async with asyncio.timeout(20):
        while True:
            run = uuid4().hex
            calls = [client.evaluate(script, f"{run}:{key}", "me", 60) for key in range(keys)]
            found: list[object] = list(await asyncio.gather(*calls, return_exceptions=True))
            if not any(isinstance(each, StoreUnavailable) for each in found):
                return found
            await asyncio.sleep(0.05)


class TestServersWithTls:
    async def test_answer_many_callers_and_are_believed_for_their_own_authority_only(
        self, url: str, certificates: TlsFiles, foreign: TlsFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        patient = RedisSettings(tls_ca=certificates.authority, socket_timeout=timedelta(seconds=5))
        client = connect_redis(url, patient, SystemClock())
        assert await counts(client, 40) == [1] * 40
        await client.close()
        for tls_ca, of_the_system in ((foreign.authority, certificates.authority), (None, foreign.authority)):
            monkeypatch.setenv("SSL_CERT_FILE", str(of_the_system))
            refused = connect_redis(url, RedisSettings(tls_ca=tls_ca), SystemClock())
            with pytest.raises(StoreUnavailable) as failure:
                await refused.evaluate(Script("peers"), "test:peers", "me", 60)
            assert "CERTIFICATE_VERIFY_FAILED" in str(failure.value.__cause__)
            await refused.close()

    async def test_are_believed_for_the_systems_authorities_without_a_file(
        self, url: str, certificates: TlsFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        client = connect_redis(url, RedisSettings(), SystemClock())
        assert await counts(client, 3) == [1] * 3
        await client.close()


class TestFailover:
    async def test_the_new_primary_is_used(self, certificates: TlsFiles, tmp_path: Path) -> None:
        assert PROGRAM is not None
        servers = RedisServers(tmp_path, Path(PROGRAM), certificates)
        async with servers.watched(replicas=2) as (url, primary), servers.connected(url) as client:
            assert await counts(client, 3) == [1] * 3
            primary.kill()
            assert await counts(client, 3) == [1] * 3


class TestOneServer:
    async def test_the_options_of_its_url_go_on_working(self, certificates: TlsFiles, tmp_path: Path) -> None:
        assert PROGRAM is not None
        servers = RedisServers(tmp_path, Path(PROGRAM), certificates)
        async with servers.alone() as url:
            client = connect_redis(f"{url}?ssl_ca_certs={certificates.authority}", RedisSettings(), SystemClock())
            assert await counts(client, 3) == [1] * 3
            await client.close()


class TestFilesOfAuthorities:
    @pytest.mark.parametrize("scheme", ["rediss://h", "rediss+sentinel://h/main", "rediss+cluster://h"])
    async def test_one_that_cannot_be_used_is_refused_by_name(self, scheme: str, tmp_path: Path) -> None:
        empty = tmp_path / "empty.pem"
        empty.write_text("")
        for file in (empty, tmp_path / "missing.pem"):
            with pytest.raises(SettingsError, match=r"^redis\.tls_ca: .*\.pem: "):
                connect_redis(scheme, RedisSettings(tls_ca=file), SystemClock())

    async def test_one_for_a_server_without_tls_is_refused(self, certificates: TlsFiles) -> None:
        with pytest.raises(SettingsError, match=r"^cache\.local\.tls_ca: cache\.local\.url uses no TLS"):
            connect_redis("redis://h", RedisSettings(tls_ca=certificates.authority), SystemClock(), setting="cache.local.url")

    async def test_one_beside_other_options_of_tls_is_refused(self, certificates: TlsFiles) -> None:
        with pytest.raises(SettingsError, match=r"^redis\.tls_ca: the URL has options of TLS"):
            connect_redis("rediss://h?ssl_ca_certs=x.pem", RedisSettings(tls_ca=certificates.authority), SystemClock())
