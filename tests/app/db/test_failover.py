"""The servers of a real cluster die, are promoted, stand still and come back under sessions that are in use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from app.costs.statements import Statements
from app.db.engines import Engines, build_engines
from app.db.servers import Server, ServerRole
from app.db.sessions import Sessions
from app.db.wakeups import listen
from app.domain.errors import StoreUnavailable
from app.health.checks import Health, Verdict
from app.health.stores import postgres_checks
from app.runtime.clock import SystemClock
from app.runtime.drain import Drain
from app.runtime.tasks import end_tasks
from app.settings import DatabaseSettings
from tests.clusters import SERVICE, Cluster, Node, running_cluster

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

WAIT_SECONDS = 20.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
async def engines(cluster: Cluster) -> AsyncIterator[Engines]:
    engines = build_engines(cluster.url(), [], DatabaseSettings())
    assert engines.watch is not None
    await engines.watch.first_answers()
    await until(lambda: engines.servers.is_settled)
    yield engines
    await engines.close()


@pytest.fixture
def sessions(engines: Engines) -> Sessions:
    return Sessions(engines)


async def until(holds: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0.02)


def server_of(engines: Engines, node: Node) -> Server:
    return next(server for server in engines.servers.every if server.url.hosts[0].port == node.port)


async def port_read(sessions: Sessions, *, primary: bool = False) -> int:
    async with sessions.read(primary=primary) as session:
        return int((await session.execute(text("select inet_server_port()"))).scalar_one())


async def write(sessions: Sessions) -> str:
    name = uuid4().hex
    async with sessions.write() as session:
        await session.execute(text("insert into maintenance values (:name)"), {"name": name})
    return name


async def written_again(sessions: Sessions) -> str:
    """What is written as soon as something can be."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await write(sessions)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def verdict(sessions: Sessions) -> Verdict:
    clock = SystemClock()
    return (await Health(postgres_checks(sessions), clock, Drain(20, clock.monotonic)).ready()).verdict


@asynccontextmanager
async def reads_going_on(sessions: Sessions) -> AsyncIterator[list[float]]:
    """Reads all the time. Any that fails fails the test. Yields how many seconds each took."""
    seconds: list[float] = []
    over = asyncio.Event()

    async def read() -> None:
        while not over.is_set():
            begun = time.monotonic()
            await port_read(sessions)
            seconds.append(time.monotonic() - begun)

    readers = [asyncio.create_task(read()) for _ in range(4)]
    yield seconds
    over.set()
    await asyncio.gather(*readers)


class TestPrimaryDies:
    async def test_reads_go_on_and_writes_go_to_the_one_that_is_promoted(self, cluster: Cluster, sessions: Sessions) -> None:
        await write(sessions)
        async with reads_going_on(sessions) as seconds:
            old = cluster.primary
            old.kill()
            with pytest.raises(StoreUnavailable):
                await write(sessions)
            new = await cluster.promote()
            await written_again(sessions)
            assert await port_read(sessions, primary=True) == new.port
        assert len(seconds) > 10

    async def test_the_old_one_under_its_old_address_is_a_replica_then(self, cluster: Cluster, engines: Engines) -> None:
        sessions, old = Sessions(engines), cluster.primary
        await write(sessions)
        old.kill()
        await cluster.promote()
        await written_again(sessions)
        await asyncio.to_thread(cluster.bring_back, old)
        await until(lambda: server_of(engines, old).role is ServerRole.REPLICA and engines.servers.is_settled)
        await cluster.caught_up()
        read: set[int] = set()
        async with asyncio.timeout(WAIT_SECONDS):
            while read < {node.port for node in cluster.replicas}:
                read.add(await port_read(sessions))

    async def test_the_old_one_that_comes_back_as_it_was_is_not_written_to(self, cluster: Cluster, engines: Engines) -> None:
        sessions, old = Sessions(engines), cluster.primary
        await write(sessions)
        old.kill()
        new = await cluster.promote()
        await written_again(sessions)
        await asyncio.to_thread(old.start)
        await until(lambda: server_of(engines, old).role is ServerRole.OLD_PRIMARY)
        for _ in range(10):
            await write(sessions)
            assert await port_read(sessions, primary=True) == new.port
            assert await port_read(sessions) != old.port

    async def test_a_statement_of_the_ledger_on_a_frozen_one_is_repeated_on_the_new_one(
        self, cluster: Cluster, engines: Engines
    ) -> None:
        statements = Statements(engines, SystemClock(), timedelta(seconds=20))
        assert (await statements.fetch("select inet_server_port()"))[0][0] == cluster.primary.port
        with cluster.primary.frozen():
            waiting = asyncio.create_task(statements.fetch("select inet_server_port()"))
            await asyncio.sleep(0.1)
            new = await cluster.promote()
            assert (await waiting)[0][0] == new.port
        await statements.close()

    async def test_a_listener_moves_to_the_new_one(self, cluster: Cluster, engines: Engines) -> None:
        heard = asyncio.Event()
        listening = asyncio.create_task(listen(engines.listening, "news", heard.set, SystemClock()))
        await asyncio.wait_for(heard.wait(), WAIT_SECONDS)
        heard.clear()
        with cluster.primary.frozen():
            new = await cluster.promote()
            await asyncio.wait_for(heard.wait(), WAIT_SECONDS)
            heard.clear()
            await new.execute("select 1")
            async with new.connected(SERVICE, "greenlang") as connection:
                await connection.execute("notify news")
            await asyncio.wait_for(heard.wait(), WAIT_SECONDS)
        await end_tasks([listening])

    async def test_the_process_is_degraded_and_not_taken_out_of_service(self, cluster: Cluster, sessions: Sessions) -> None:
        assert await verdict(sessions) is Verdict.OK
        cluster.primary.kill()
        await until(lambda: sessions.engines.servers.primary is None)
        assert await verdict(sessions) is Verdict.DEGRADED
        for replica in cluster.replicas:
            replica.kill()
        await until(lambda: all(server.role is ServerRole.GONE for server in sessions.engines.servers.every))
        assert await verdict(sessions) is Verdict.UNAVAILABLE


class TestReplicaFails:
    @pytest.mark.parametrize("fault", ["killed", "frozen"])
    async def test_no_read_fails_and_it_is_read_again_when_it_answers(
        self, cluster: Cluster, engines: Engines, fault: str
    ) -> None:
        sessions, replica = Sessions(engines), cluster.replicas[0]
        async with reads_going_on(sessions) as seconds:
            if fault == "killed":
                replica.kill()
                await until(lambda: server_of(engines, replica).role is ServerRole.GONE)
                await asyncio.to_thread(replica.start)
            else:
                with replica.frozen():
                    await until(lambda: server_of(engines, replica).role is ServerRole.GONE)
            await until(lambda: server_of(engines, replica).role is ServerRole.REPLICA and engines.servers.is_settled)
            async with asyncio.timeout(WAIT_SECONDS):
                while await port_read(sessions) != replica.port:
                    pass
        assert max(seconds) < WAIT_SECONDS / 2

    async def test_one_whose_replay_is_paused_is_not_read_once_it_is_too_old(self, cluster: Cluster, engines: Engines) -> None:
        sessions, paused = Sessions(engines, timedelta(seconds=2)), cluster.replicas[0]
        await paused.execute("select pg_wal_replay_pause()")
        await write(sessions)
        lag = engines.servers.lag
        await until(lambda: (lag(server_of(engines, paused)) or timedelta()) > timedelta(seconds=2))
        assert paused.port not in {await port_read(sessions) for _ in range(20)}
        async with sessions.read(max_staleness=timedelta(0)) as session:
            newest = (await session.execute(text("select count(*) from maintenance where length(task) = 32"))).scalar_one()
        assert newest == 1

    async def test_one_that_lets_none_connect_is_left_alone(self, cluster: Cluster, engines: Engines) -> None:
        sessions, refusing = Sessions(engines), cluster.replicas[0]
        hba = refusing.folder / "pg_hba.conf"
        hba.write_text("host replication all 127.0.0.1/32 scram-sha-256\n")
        server_of(engines, refusing).end_connections()
        assert refusing.process is not None
        refusing.run("pg_ctl", "reload", "-D", refusing.folder)
        async with reads_going_on(sessions):
            await until(lambda: server_of(engines, refusing).role is ServerRole.GONE)

    async def test_a_read_that_recovery_cancels_is_repeated_elsewhere(self, cluster: Cluster, engines: Engines) -> None:
        sessions = Sessions(engines)
        for replica in cluster.replicas:
            await replica.execute("alter system set max_standby_streaming_delay = '100ms'", "select pg_reload_conf()")
        async with cluster.primary.connected(SERVICE, "greenlang") as owner:
            await owner.execute("create table many (number int)", timeout=30)
            await owner.execute("insert into many select generate_series(1, 1000)")
            await cluster.caught_up()

            async def read() -> int:
                async with sessions.read() as session:
                    statement = "select count(*) from many, (select pg_sleep(0.01) from generate_series(1, 150)) as slowly"
                    return int((await session.execute(text(statement))).scalar_one())

            reading = asyncio.create_task(read())
            await asyncio.sleep(0.3)
            await owner.execute("delete from many where number > 500")
            await owner.execute("vacuum many")
            assert await reading == 150 * 500
