"""What a key has written is seen by whichever process reads for it, on replicas that are late or stand still."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from app.costs.statements import Statements
from app.db.own_writes import CALLER, Caller
from app.db.servers import NOWHERE
from app.redis.own_positions import OwnPositions
from app.runtime.clock import SystemClock
from tests.clusters import Cluster, running_cluster
from tests.reading_process import Process, open_process, start_other_process

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

WRITES = 200
DRILL_WRITES = 1000
DRILL_KEYS = 8
NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@asynccontextmanager
async def process(cluster: Cluster, redis_url: str) -> AsyncIterator[Process]:
    async with open_process(cluster.url(), redis_url) as made:
        yield made


@pytest.fixture
async def writer(cluster: Cluster, valkey_url: str) -> AsyncIterator[Process]:
    async with process(cluster, valkey_url) as made:
        yield made


@pytest.fixture
async def reader(cluster: Cluster, valkey_url: str) -> AsyncIterator[Process]:
    async with process(cluster, valkey_url) as made:
        yield made


@asynccontextmanager
async def made_late(cluster: Cluster) -> AsyncIterator[Cluster]:
    """One replica stands still, and the other is 300 ms late."""
    paused, late = cluster.replicas
    await paused.execute("select pg_wal_replay_pause()")
    await late.execute("alter system set recovery_min_apply_delay = '300ms'", "select pg_reload_conf()")
    try:
        yield cluster
    finally:
        await paused.execute("select pg_wal_replay_resume()")
        await late.execute("alter system reset recovery_min_apply_delay", "select pg_reload_conf()")
        await cluster.caught_up()


@pytest.fixture
async def lagging(cluster: Cluster) -> AsyncIterator[Cluster]:
    async with made_late(cluster) as late:
        yield late


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller("a-key", may_write=True)
    token = CALLER.set(caller)
    yield caller
    CALLER.reset(token)


async def stale_reads(writer: Process, reader: Process, writes: int) -> tuple[int, int]:
    """How many reads did not show what was written right before, and how many the primary answered."""
    shown = Counter[str]()
    for number in range(writes):
        task = f"{id(writer)}-{number}"
        await writer.write(task)
        shown[await reader.shown(task)] += 1
    return shown["none"], shown["primary"]


async def as_caller(writer: Process, reader: Process, writes: int) -> tuple[int, int]:
    CALLER.set(Caller("a-key", may_write=True))
    return await stale_reads(writer, reader, writes)


class TestReadsAfterAWrite:
    async def test_replicas_at_their_usual_lag_answer_nearly_all_and_none_is_stale(
        self, writer: Process, reader: Process
    ) -> None:
        stale, of_primary = await as_caller(writer, reader, WRITES)
        logging.getLogger(__name__).info("of %d reads right after a write the primary answered %d", WRITES, of_primary)
        assert stale == 0
        assert of_primary <= WRITES / 5

    async def test_none_is_stale_while_one_replica_stands_still_and_the_other_is_late(
        self, lagging: Cluster, writer: Process, reader: Process
    ) -> None:
        stale, of_primary = await as_caller(writer, reader, WRITES // 4)
        assert stale == 0
        assert of_primary > 0

    async def test_none_is_stale_without_redis(self, lagging: Cluster) -> None:
        async with process(lagging, NO_REDIS) as writer, process(lagging, NO_REDIS) as reader:
            assert await as_caller(writer, reader, WRITES // 4) == (0, WRITES // 4)

    async def test_a_key_that_cannot_write_reads_replicas_without_redis(self, cluster: Cluster) -> None:
        async with process(cluster, NO_REDIS) as reader:
            CALLER.set(Caller("reader", may_write=False))
            ports = {await reader.port() for _ in range(10)}
        assert ports == {node.port for node in cluster.replicas}

    async def test_another_key_is_answered_by_a_replica(self, lagging: Cluster, writer: Process, reader: Process) -> None:
        await as_caller(writer, reader, 1)
        CALLER.set(Caller("another", may_write=True))
        assert await reader.port() != lagging.primary.port

    async def test_a_write_whose_position_is_unknown_is_seen_too(self, writer: Process, reader: Process) -> None:
        CALLER.set(Caller("doubtful", may_write=True))
        assert writer.sessions.own_writes is not None
        await writer.sessions.own_writes.note(None)
        assert await reader.port() == reader.primary_port


@pytest.mark.drill
@pytest.mark.parametrize("has_redis", [True, False])
@pytest.mark.long
async def test_a_thousand_reads_through_another_process_show_what_was_written(
    cluster: Cluster, valkey_url: str, *, has_redis: bool
) -> None:
    redis_url, shown = valkey_url if has_redis else NO_REDIS, Counter[str]()
    async with (
        process(cluster, redis_url) as writer,
        start_other_process(cluster.url(), redis_url) as reader,
        made_late(cluster),
    ):

        async def write_and_read(key: str) -> None:
            CALLER.set(Caller(key, may_write=True))
            for number in range(DRILL_WRITES // DRILL_KEYS):
                task = f"{key}-{has_redis}-{number}"
                await writer.write(task)
                shown[await reader.shown(key, task)] += 1

        await asyncio.gather(*(write_and_read(f"key-{number}") for number in range(DRILL_KEYS)))
    share, redis = shown["primary"] / DRILL_WRITES, "with" if has_redis else "without"
    sys.stdout.write(f"{DRILL_WRITES} reads right after a write, {redis} Redis: {share:.1%} went to the primary\n")
    assert shown["none"] == 0
    assert shown.total() == DRILL_WRITES


class TestPositions:
    async def test_the_highest_of_a_key_is_kept(self, reader: Process) -> None:
        positions = OwnPositions(reader.redis)
        for timeline, position in ((1, 900), (1, 100), (2, 50), (1, 1000)):
            await positions.put("some", timeline, position, timedelta(seconds=20))
        assert await positions.get("some") == (2, 50)
        assert await positions.get("other") is None
        await positions.put("some", 2, NOWHERE, timedelta(seconds=20))
        assert await positions.get("some") == (2, NOWHERE)

    async def test_the_ledger_finds_one_after_its_commit(self, reader: Process) -> None:
        statements = Statements(reader.engines, SystemClock(), timedelta(seconds=5))
        assert await statements.position() is None
        await statements.fetch("insert into maintenance values ('by a statement')")
        first = await statements.position()
        await statements.fetch("delete from maintenance where task = 'by a statement'")
        second = await statements.position()
        assert first is not None
        assert second is not None
        assert second > first
        await statements.close()
