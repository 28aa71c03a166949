"""`greenlang doctor --deep` against servers that have TLS, have none, are not there, or have no name."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from app.cli.deep_checks import check_deeply
from app.cli.endpoints import configured_endpoints
from app.cli.findings import Finding
from app.runtime.clock import SystemClock
from app.settings import Settings
from app.settings.load import load_settings
from tests.certificates import TlsFiles, make_certificates
from tests.tls_postgres import start_tls_postgres

pytestmark = pytest.mark.anyio

Configured: TypeAlias = Callable[..., Settings]


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    return make_certificates(tmp_path / "tls", "of tests")


@asynccontextmanager
async def listening(tls: TlsFiles | None = None) -> AsyncIterator[int]:
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.certificate, tls.key)

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    """Makes settings of TOML values by their places; a URL of a store is a secret in a file."""

    def make(**values: str) -> Settings:
        lines = []
        for place, value in values.items():
            key = place.replace("__", ".")
            is_secret = key.endswith((".url", ".primary", ".owner"))
            if is_secret:
                (tmp_path / key).write_text(value)
            lines.append(f"{key} = " + (f'{{ file = "{tmp_path / key}" }}' if is_secret else value))
        (tmp_path / "greenlang.toml").write_text("\n".join(lines))
        return load_settings(tmp_path / "greenlang.toml", {})

    return make


async def only(settings: Settings) -> Finding:
    (finding,) = await check_deeply(settings, SystemClock())
    return finding


class TestEndpoints:
    async def test_of_a_configuration_are_all_found_once(self, configured: Configured) -> None:
        primary = "postgresql://me@a:5433,b/db?sslmode=require"
        settings = configured(
            database__primary=primary,
            database__owner=primary,
            redis__url="rediss+sentinel://s1,s2:26380/main",
            cache__shared__url="redis://shared/0",
            providers='[{ name = "one", kind = "openai" }, { name = "off", kind = "anthropic", enabled = false }]',
            webhooks='[{ url = "https://hooks.example.com/x", secret = { env = "S" } }]',
            telemetry__otlp_endpoint='"http://collector:4318"',
        )
        found = [(each.host, each.port, each.encryption.name) for each in configured_endpoints(settings)]
        assert found == [
            ("a", 5433, "POSTGRESQL"),
            ("b", 5432, "POSTGRESQL"),
            ("s1", 26379, "TLS"),
            ("s2", 26380, "TLS"),
            ("shared", 6379, "NONE"),
            ("api.openai.com", 443, "TLS"),
            ("hooks.example.com", 443, "TLS"),
            ("collector", 4318, "NONE"),
        ]

    async def test_of_sockets_and_private_stores_are_left_out(self, configured: Configured) -> None:
        settings = configured(database__primary="postgresql:///db?host=/run/postgresql", redis__url="unix:///run/redis.sock")
        assert configured_endpoints(settings) == []
        assert "everything is on this machine" in (await only(configured())).detail


class TestConnections:
    async def test_with_a_good_certificate_say_how_long_it_is_valid(self, configured: Configured, tls: TlsFiles) -> None:
        async with listening(tls) as port:
            found = await only(configured(redis__url=f"rediss://127.0.0.1:{port}/0", redis__tls_ca=f'"{tls.authority}"'))
        assert (found.subject, found.mark) == (f"redis.url 127.0.0.1:{port}", "warn"), "it is valid for less than a day"
        assert found.detail.endswith("certificate for 127.0.0.1: 0 days left")

    async def test_with_an_unknown_authority_fail(self, configured: Configured, tls: TlsFiles) -> None:
        async with listening(tls) as port:
            found = await only(configured(telemetry__otlp_endpoint=f'"https://127.0.0.1:{port}"'))
        assert (found.mark, "its certificate is refused: " in found.detail) == ("FAIL", True)

    async def test_for_another_name_fail(self, configured: Configured, tls: TlsFiles) -> None:
        async with listening(tls) as port:
            found = await only(configured(redis__url=f"rediss://localhost:{port}/0", redis__tls_ca=f'"{tls.authority}"'))
        assert (found.mark, "localhost" in found.detail) == ("FAIL", True)

    async def test_without_tls_are_shown_as_such(self, configured: Configured) -> None:
        async with listening() as port:
            found = await only(configured(redis__url=f"redis://127.0.0.1:{port}/0"))
        assert (found.mark, found.detail.endswith("without TLS")) == ("ok", True)

    async def test_that_are_refused_fail(self, configured: Configured, free_tcp_port: int) -> None:
        assert (await only(configured(redis__url=f"redis://127.0.0.1:{free_tcp_port}/0"))).mark == "FAIL"

    async def test_to_a_name_that_does_not_exist_fail(self, configured: Configured) -> None:
        assert (await only(configured(telemetry__otlp_endpoint='"http://nowhere.invalid"'))).mark == "FAIL"


class TestPostgreSQL:
    async def test_has_a_clock_that_agrees(self, configured: Configured, postgres_url: str) -> None:
        connection, clock = await check_deeply(configured(database__primary=postgres_url), SystemClock())
        assert (connection.mark, connection.detail.endswith("without TLS")) == ("ok", True)
        assert (clock.subject, clock.mark, " ms from here to the database" in clock.detail) == ("clock", "ok", True)

    async def test_shows_its_certificate(self, configured: Configured, tls: TlsFiles, tmp_path: Path) -> None:
        with start_tls_postgres(tmp_path, tls) as url:
            good = configured(database__primary=f"{url}?sslmode=verify-full&sslrootcert={tls.authority}")
            connection, clock = await check_deeply(good, SystemClock())
            assert connection.detail.endswith("certificate for 127.0.0.1: 0 days left")
            assert clock.mark == "ok"

    async def test_without_tls_fails_if_it_is_required(self, configured: Configured, postgres_url: str) -> None:
        connection, clock = await check_deeply(configured(database__primary=f"{postgres_url}?sslmode=require"), SystemClock())
        assert (connection.mark, connection.detail) == ("FAIL", "the server has no TLS")
        assert clock.mark == "FAIL"
