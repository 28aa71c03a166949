from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db.engines import build_engines
from app.db.migrate import migrate
from app.db.sessions import Sessions
from app.db.urls import DatabaseUrl, Host, parse_database_url
from app.domain.errors import SettingsError, StoreUnavailable
from app.settings import DatabaseSettings
from tests.certificates import TlsFiles, make_certificates
from tests.tls_postgres import start_tls_postgres

SETTING = "database.primary"


def hosts(url: str) -> list[str]:
    return [str(host) for host in parse_database_url(url, SETTING).hosts]


class TestUrl:
    def test_its_parts_are_decoded(self) -> None:
        url = parse_database_url("postgresql://a%40b:p%3Aw%2F@db.example:6000/green%20lang?sslmode=require", SETTING)
        assert url == DatabaseUrl(
            (Host("db.example", 6000),), user="a@b", password="p:w/", database="green lang", tls={"sslmode": "require"}
        )
        assert "p:w/" not in repr(url)

    @pytest.mark.parametrize("password", ["p/w", "p?w=1", "p#w", "p:w"])
    def test_a_password_that_is_not_encoded_is_taken_as_ever(self, password: str) -> None:
        url = parse_database_url(f"postgresql://me:{password}@db:6000/data", SETTING)
        assert (url.password, url.hosts, url.database) == (password, (Host("db", 6000),), "data")

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("postgresql://u:p@a:5433,b:5434,c/db", ["a:5433", "b:5434", "c:5432"]),
            ("postgres://a,b/db", ["a:5432", "b:5432"]),
            ("postgresql+asyncpg://a/db", ["a:5432"]),
            ("postgresql://[::1]:5433,10.0.0.1/db", ["[::1]:5433", "10.0.0.1:5432"]),
            ("postgresql://u@/db?host=a:5433&host=b", ["a:5433", "b:5432"]),
            ("postgresql:///db?host=a,b&port=5433,5434", ["a:5433", "b:5434"]),
            ("postgresql:///db?host=/var/run/postgresql", ["/var/run/postgresql:5432"]),
            ("postgresql://a,b/db?port=6432", ["a:6432", "b:6432"]),
        ],
    )
    def test_names_each_host_with_its_port(self, url: str, expected: list[str]) -> None:
        assert hosts(url) == expected

    def test_has_one_url_for_each_host(self) -> None:
        url = parse_database_url("postgresql://u:p@a,b/db?ssl=require&target_session_attrs=read-write", SETTING)
        assert [(each.hosts, each.user, each.password, each.tls) for each in url.servers()] == [
            ((Host(name, 5432),), "u", "p", {"sslmode": "require"}) for name in ("a", "b")
        ]

    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("postgresql://u:hidden@/db", "host 1 is empty"),
            ("postgresql://u:hidden@a,,b/db", "host 2 is empty"),
            ("postgresql://u:hidden@a,:5433/db", "host 2 is empty"),
            ("postgresql://u:hidden@a,a:5432/db", "the host a:5432 twice"),
            ("postgresql://u:hidden@a:0/db", "port of host a must be from 1 to 65535"),
            ("postgresql://u:hidden@a:99999/db", "wrong port or address at host 1"),
            ("postgresql://u:hidden@a:port/db", "wrong port or address at host 1"),
            ("postgresql://u:hidden@a,b/db?port=1,2,3", "another number of ports"),
            ("postgresql://u:hidden@a/db?host=b", "name them once"),
            ("postgresql://u:hid@den@a/db", "as %40"),
            ("mysql://u:hidden@a/db", "must have the form postgresql://"),
            ("a:5432/db", "must have the form postgresql://"),
            ("postgresql://u:hidden@a/db?sslmod=require", "the unknown parameter sslmod"),
            ("postgresql://u:hidden@a/db?target_session_attrs=standby", "unknown parameter target_session_attrs"),
            ("postgresql://u:hidden@a/db?sslmode=on", "sslmode must be one of disable, "),
            ("postgresql://u:hidden@a/db?sslmode=verify-ca&sslrootcert=/no/such.pem", "sslrootcert cannot be used: No such file"),
            ("postgresql://u:hidden@a/db?sslcert=/no/such.pem", "both parameters sslcert and sslkey"),
            ("postgresql://u:hidden@a/db?sslcert=/no/such.pem&sslkey=/no/such.key", "cannot be used: No such"),
        ],
    )
    def test_what_is_wrong_is_named_and_no_password_is_shown(self, url: str, problem: str) -> None:
        with pytest.raises(SettingsError) as refused:
            parse_database_url(url, SETTING)
        assert refused.value.path == SETTING
        assert problem in refused.value.problem
        assert not any(secret in str(refused.value) for secret in ("hidden", "hid@", "den"))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_certificates(tmp_path_factory.mktemp("tls") / "ours", "ours")


@pytest.fixture(scope="module")
def tls_url(tmp_path_factory: pytest.TempPathFactory, tls: TlsFiles) -> Iterator[str]:
    with start_tls_postgres(tmp_path_factory.mktemp("postgres"), tls, client_certificates=True) as url:
        yield url


async def uses_tls(url: str) -> bool:
    engines = build_engines(url, [], DatabaseSettings())
    try:
        async with Sessions(engines).read() as session:
            found = await session.execute(text("select ssl from pg_stat_ssl where pid = pg_backend_pid()"))
            return bool(found.scalar_one())
    finally:
        await engines.close()


@pytest.mark.anyio
class TestTls:
    async def test_verify_full_takes_the_right_authority_and_name(self, tls_url: str, tls: TlsFiles) -> None:
        ours = f"sslcert={tls.certificate}&sslkey={tls.key}"
        assert await uses_tls(f"{tls_url}?sslmode=verify-full&sslrootcert={tls.authority}&{ours}")
        assert await uses_tls(f"{tls_url}?sslmode=require&{ours}")
        assert len(await migrate(f"{tls_url}?sslmode=verify-full&sslrootcert={tls.authority}&{ours}")) == 4

    async def test_another_authority_or_name_is_refused(self, tls_url: str, tls: TlsFiles, tmp_path: Path) -> None:
        ours, other = f"sslcert={tls.certificate}&sslkey={tls.key}", make_certificates(tmp_path / "other", "other")
        with pytest.raises(StoreUnavailable) as refused:
            await uses_tls(f"{tls_url}?sslmode=verify-ca&sslrootcert={other.authority}&{ours}")
        assert isinstance(refused.value.__cause__, ssl.SSLCertVerificationError)
        named = tls_url.replace("127.0.0.1", "localhost")
        with pytest.raises(StoreUnavailable) as refused:
            await uses_tls(f"{named}?sslmode=verify-full&sslrootcert={tls.authority}&{ours}")
        assert isinstance(refused.value.__cause__, ssl.SSLCertVerificationError)
        assert await uses_tls(f"{named}?sslmode=verify-ca&sslrootcert={tls.authority}&{ours}")

    async def test_a_server_without_tls_is_refused_if_it_is_required(self, postgres_url: str) -> None:
        with pytest.raises(StoreUnavailable):
            await uses_tls(f"{postgres_url}?sslmode=require")
        assert not await uses_tls(f"{postgres_url}?sslmode=prefer")
        assert not await uses_tls(postgres_url)
