from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.db.engines import build_engines
from app.db.server_state import ServerState
from app.db.servers import NOWHERE, Server, ServerRole, Servers
from app.domain.errors import SettingsError, StoreUnavailable
from app.settings import DatabaseSettings

BEGUN = datetime(2026, 11, 30, 12, tzinfo=UTC)
FRESH = timedelta(seconds=10)


class Cluster:
    """Three servers whose answers a test gives. They run on hosts that do not exist, and nothing connects to them."""

    def __init__(self, count: int = 3) -> None:
        hosts = ",".join(f"db{number}.example" for number in range(count))
        self.servers = Servers(build_engines(f"postgresql://someone@{hosts}/one", [], DatabaseSettings()).servers.every)
        self.every: Sequence[Server] = self.servers.every

    def primary(self, place: int, *, timeline: int = 1, position: int = 100, at: float = 0, forked_at: int | None = None) -> None:
        state = ServerState(
            at=BEGUN + timedelta(seconds=at),
            is_standby=False,
            timeline=timeline,
            position=position,
            forked_at=forked_at,
            receives=False,
            cluster=7,
            database=5,
            started_at=BEGUN + timedelta(hours=place),
        )
        self.servers.answered(self.every[place], state)

    def standby(
        self,
        place: int,
        *,
        timeline: int = 1,
        position: int = 100,
        receives: bool = True,
        cluster: int = 7,
        database: int = 5,
    ) -> None:
        state = ServerState(
            at=BEGUN,
            is_standby=True,
            timeline=timeline,
            position=position,
            forked_at=None,
            receives=receives,
            cluster=cluster,
            database=database,
            started_at=BEGUN + timedelta(hours=place),
        )
        self.servers.answered(self.every[place], state)

    def gone(self, *places: int) -> None:
        for place in places:
            self.servers.failed(self.every[place], "ConnectionRefusedError")

    @property
    def roles(self) -> list[ServerRole]:
        return [server.role for server in self.every]

    def reader(self, max_staleness: timedelta = FRESH, position: int | None = None) -> int | None:
        chosen = self.servers.choose_reader(max_staleness, position)
        return None if chosen is None else self.every.index(chosen)


class TestWhichServerIsThePrimary:
    def test_nothing_is_written_before_every_server_was_asked(self) -> None:
        cluster = Cluster()
        cluster.primary(0)
        cluster.gone(1)
        assert cluster.servers.primary is None
        cluster.gone(2)
        assert cluster.servers.known_primary() is cluster.every[0]

    def test_one_on_a_higher_timeline_replaces_the_one_before_at_once(self) -> None:
        cluster = Cluster()
        cluster.primary(0)
        cluster.standby(1)
        cluster.standby(2)
        cluster.primary(1, timeline=2, forked_at=100)
        assert cluster.servers.known_primary() is cluster.every[1]
        assert cluster.servers.failovers == 1

    def test_an_old_primary_that_comes_back_is_not_written_to_and_is_an_error_in_the_log(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        cluster = Cluster()
        cluster.primary(0)
        cluster.standby(1)
        cluster.standby(2)
        cluster.gone(0)
        cluster.primary(1, timeline=2, forked_at=100)
        cluster.gone(1)
        with caplog.at_level(logging.ERROR):
            cluster.primary(0)
        assert cluster.roles == [ServerRole.OLD_PRIMARY, ServerRole.GONE, ServerRole.REPLICA]
        with pytest.raises(StoreUnavailable):
            cluster.servers.known_primary()
        assert [record.__dict__["is"] for record in caplog.records if record.levelno == logging.ERROR] == ["old primary"]

    def test_a_standby_of_a_higher_timeline_shows_that_a_primary_is_old(self) -> None:
        cluster = Cluster(2)
        cluster.standby(1, timeline=3)
        cluster.primary(0, timeline=2)
        assert cluster.roles == [ServerRole.OLD_PRIMARY, ServerRole.REPLICA]
        assert cluster.reader() == 1

    def test_two_on_one_timeline_are_not_written_to_and_still_read(self, caplog: pytest.LogCaptureFixture) -> None:
        cluster = Cluster(2)
        cluster.primary(0, timeline=2)
        with caplog.at_level(logging.ERROR):
            cluster.primary(1, timeline=2)
        assert cluster.servers.primary is None
        assert cluster.roles == [ServerRole.CONFLICTING] * 2
        assert "two primaries" in caplog.text
        assert cluster.reader() is not None
        cluster.gone(1)
        assert cluster.servers.known_primary() is cluster.every[0]

    def test_one_server_under_two_names_is_one_primary(self) -> None:
        cluster = Cluster(2)
        cluster.primary(0)
        state = cluster.every[0].state
        assert state is not None
        cluster.servers.answered(cluster.every[1], replace(state, at=BEGUN))
        assert cluster.roles == [ServerRole.PRIMARY, ServerRole.ALIAS]
        assert cluster.servers.known_primary() is cluster.every[0]

    def test_only_standbys_are_read_and_not_written_to(self) -> None:
        cluster = Cluster(2)
        cluster.standby(0)
        cluster.standby(1, position=200)
        assert cluster.servers.primary is None
        assert cluster.reader() == 1


class TestWhichServerIsRead:
    @pytest.fixture
    def cluster(self) -> Cluster:
        cluster = Cluster()
        cluster.primary(0)
        cluster.standby(1)
        cluster.standby(2)
        return cluster

    def test_replicas_take_turns_while_they_have_nothing_to_do(self, cluster: Cluster) -> None:
        assert sorted(str(cluster.reader()) for _ in range(10)) == ["1"] * 5 + ["2"] * 5

    def test_the_one_with_less_to_do_is_chosen(self, cluster: Cluster) -> None:
        cluster.every[1].reads = 3
        assert {cluster.reader() for _ in range(3)} == {2}

    def test_one_that_is_too_far_behind_is_not_read(self, cluster: Cluster) -> None:
        cluster.primary(0, position=300, at=20)
        cluster.standby(1, position=300)
        assert cluster.servers.lag(cluster.every[2]) == timedelta(seconds=20)
        assert {cluster.reader() for _ in range(3)} == {1}
        cluster.gone(1)
        assert cluster.reader() == 0
        assert cluster.reader(max_staleness=timedelta(seconds=30)) == 2

    def test_one_that_has_replayed_a_position_is_read_by_who_needs_it(self, cluster: Cluster) -> None:
        cluster.standby(1, position=150)
        assert {cluster.reader(position=150) for _ in range(3)} == {1}

    def test_the_one_that_has_replayed_most_is_asked_for_a_position_that_none_has_shown(self, cluster: Cluster) -> None:
        cluster.standby(1, position=150)
        assert {cluster.reader(position=151) for _ in range(3)} == {1}
        assert cluster.reader(position=NOWHERE) == 0

    def test_a_replica_shows_nothing_newer_than_its_moment_while_it_stands_still(self, cluster: Cluster) -> None:
        cluster.primary(0, position=200, at=5)
        cluster.standby(2, position=150)
        assert cluster.every[2].as_of == BEGUN
        cluster.primary(0, position=300, at=9)
        cluster.standby(2, position=200)
        assert cluster.every[2].as_of == BEGUN + timedelta(seconds=5)

    def test_without_a_primary_the_freshest_replica_answers_however_old_it_is(self, cluster: Cluster) -> None:
        cluster.primary(0, position=500, at=60)
        cluster.standby(2, position=200)
        cluster.gone(0)
        assert cluster.reader(max_staleness=timedelta(seconds=1), position=400) == 2

    def test_a_server_of_another_cluster_or_database_is_not_read(self, cluster: Cluster) -> None:
        cluster.standby(1, cluster=8)
        cluster.standby(2, database=6)
        assert cluster.roles[1:] == [ServerRole.FOREIGN] * 2
        assert cluster.reader() == 0

    def test_a_standby_that_has_replayed_more_than_the_new_primary_has_is_not_read(self, cluster: Cluster) -> None:
        cluster.standby(2, position=180)
        cluster.gone(0)
        cluster.primary(1, timeline=2, position=150, forked_at=150)
        cluster.standby(2, position=180, receives=False)
        assert cluster.roles == [ServerRole.GONE, ServerRole.PRIMARY, ServerRole.DIVERGED]
        cluster.standby(2, position=150, timeline=2)
        assert cluster.roles == [ServerRole.GONE, ServerRole.PRIMARY, ServerRole.REPLICA]

    def test_a_standby_that_follows_the_new_primary_is_read_also_when_the_old_one_comes_back(self, cluster: Cluster) -> None:
        cluster.gone(0)
        cluster.standby(2, position=180)
        cluster.primary(1, timeline=2, position=180, forked_at=150)
        for _ in range(2):
            cluster.standby(2, position=190)
        cluster.primary(0, timeline=1)
        cluster.standby(2, position=200)
        assert cluster.roles == [ServerRole.OLD_PRIMARY, ServerRole.PRIMARY, ServerRole.REPLICA]

    def test_a_standby_that_may_follow_an_old_primary_is_not_read(self, cluster: Cluster) -> None:
        cluster.primary(1, timeline=2, position=150, forked_at=150)
        cluster.standby(2, position=140)
        assert cluster.roles == [ServerRole.OLD_PRIMARY, ServerRole.PRIMARY, ServerRole.REPLICA]
        cluster.standby(2, position=180)
        assert cluster.roles[2] is ServerRole.DIVERGED


class TestAddresses:
    def test_a_host_of_primary_and_replicas_is_one_server(self) -> None:
        engines = build_engines("postgresql://a@one,two/db", ["postgresql://a@two/db"], DatabaseSettings())
        assert [server.name for server in engines.servers.every] == ["one:5432", "two:5432"]

    def test_one_host_is_the_primary_without_a_question(self) -> None:
        engines = build_engines("postgresql://a@one/db", ["postgresql://a@one/db"], DatabaseSettings())
        assert engines.watch is None
        assert engines.primary is engines.servers.every[0].engine

    def test_a_replica_of_another_database_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="two:5432 is a replica of another database"):
            build_engines("postgresql://a@one/db", ["postgresql://a@two/other"], DatabaseSettings())
