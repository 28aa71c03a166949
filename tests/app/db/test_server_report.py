from __future__ import annotations

from datetime import timedelta

import pytest

from app.db.server_report import ServerReport, ask_server, known_servers, most_connections, too_many_connections
from app.db.urls import parse_database_url
from app.domain.errors import StoreUnavailable
from app.secrets.reference import SecretReference
from app.settings import DatabaseSettings

LIMIT = timedelta(seconds=5)
REPORT = ServerReport(
    version="18.6",
    in_recovery=False,
    lag=None,
    used=3,
    allowed=97,
    hot_standby_feedback=False,
    synchronous_standbys="",
    has_statistics=True,
)
SECRET = SecretReference(env="NOT_READ")


class TestServer:
    @pytest.mark.anyio
    async def test_says_what_it_is(self, postgres_url: str) -> None:
        report = await ask_server(parse_database_url(postgres_url, "test"), LIMIT)
        assert (report.in_recovery, report.lag, report.synchronous_standbys) == (False, None, "")
        assert report.version[0].isdecimal()
        assert 0 < report.used < report.allowed == 300 - 3
        assert str(report).startswith(f"primary, {report.version}, {report.used} of 297 connections used, no synchronous")

    @pytest.mark.anyio
    async def test_that_is_away_is_unavailable(self, free_tcp_port: int) -> None:
        with pytest.raises(StoreUnavailable):
            await ask_server(parse_database_url(f"postgresql://me@127.0.0.1:{free_tcp_port}/none", "test"), LIMIT)

    def test_each_is_asked_past_the_pooler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, url in (("POOLED", "pool:6432"), ("DIRECT", "a:5432,b:5432"), ("REPLICA", "c")):
            monkeypatch.setenv(name, f"postgresql://{url}/db")
        primary, direct, replica = (SecretReference(env=name) for name in ("POOLED", "DIRECT", "REPLICA"))
        settings = DatabaseSettings(primary=primary, direct=direct, replicas=(replica,))
        assert [str(url.hosts[0]) for url in known_servers(settings)] == ["a:5432", "b:5432", "c:5432"]


class TestMostConnections:
    @pytest.mark.parametrize(
        ("settings", "processes", "most"),
        [
            (DatabaseSettings(), 1, 62),
            (DatabaseSettings(), 2, 124),
            (DatabaseSettings(pods=3), 2, 372),
            (DatabaseSettings(pool_size=5, max_overflow=0, direct=SECRET), 4, 36),
        ],
    )
    def test_are_those_of_all_processes_of_all_pods(self, settings: DatabaseSettings, processes: int, most: int) -> None:
        assert most_connections(settings, processes) == most

    def test_above_what_the_server_allows_are_a_warning(self) -> None:
        assert too_many_connections(DatabaseSettings(), 1, REPORT) is None
        warning = too_many_connections(DatabaseSettings(), 2, REPORT)
        assert warning is not None
        assert "2 server processes can open 124 connections, and the server allows 97" in warning

    def test_are_unknown_behind_a_pooler(self) -> None:
        assert too_many_connections(DatabaseSettings(statement_cache=False), 100, REPORT) is None
