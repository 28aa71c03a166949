"""What replicas take off the primary, and what choosing among them costs, beside the same on one server in the same run.

A cluster of a primary and two replicas runs on this machine, so replicas add no speed here.

Run: python -m benchmarks.database [--reads 2000] [--calls 2000] [--only-named]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from app.costs.ledger import PostgresLedger
from app.costs.prices import PriceBook
from app.costs.queries import CostDimension, CostFilter, CostQuery
from app.costs.reports import CostReports
from app.db.engines import Engines, build_engines
from app.db.own_writes import CALLER, Caller, OwnWrites
from app.db.sessions import Sessions
from app.embedded.stores import PrivateStores
from app.redis.clients import RedisClient, connect_redis
from app.redis.own_positions import OwnPositions
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, RedisSettings, Settings
from benchmarks.ledger import requests_and_settlements
from benchmarks.named_statements import Seen, fill, named_statements, read_everything, watching
from tests.clusters import DATABASE, SERVICE, Cluster, Node, running_cluster
from tests.processes import family

ROUNDS = 5
AT_ONCE = 50
WARM_UP = 50
PORT = text("select inet_server_port()")


@dataclass
class Timed:
    """Seconds of each call, and the CPU seconds of this process for all of them."""

    wall: list[float] = field(default_factory=list)
    cpu: float = 0.0

    async def take(self, work: Callable[[], Awaitable[object]], times: int) -> None:
        cpu = time.process_time()
        for _ in range(times):
            begun = time.perf_counter()
            await work()
            self.wall.append(time.perf_counter() - begun)
        self.cpu += time.process_time() - cpu

    @property
    def p50(self) -> float:
        return statistics.median(self.wall)

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.wall, n=100)[98]


@asynccontextmanager
async def open_sessions(url: str, redis: RedisClient) -> AsyncIterator[Sessions]:
    clock, settings = SystemClock(), DatabaseSettings()
    engines = build_engines(url, [], settings)
    own_writes = None if engines.watch is None else OwnWrites(engines.servers, OwnPositions(redis), clock, settings.max_staleness)
    if engines.watch is not None:
        await engines.watch.first_answers()
        while not engines.servers.is_settled:  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0.05)
    yield Sessions(engines, settings.max_staleness, settings.own_write_wait, own_writes)
    await engines.close()


def primary_port(engines: Engines) -> int:
    return engines.servers.known_primary().url.hosts[0].port


async def small_reads(alone: Sessions, spread: Sessions, reads: int) -> None:
    engine, bare, ours, ports = alone.engines.primary, Timed(), Timed(), Counter[int]()

    async def read_bare() -> None:
        async with engine.connect() as connection:
            await connection.execute(PORT)

    async def read_ours() -> None:
        async with spread.read() as session:
            ports[(await session.execute(PORT)).scalar_one()] += 1

    for work in (read_bare, read_ours):
        await Timed().take(work, WARM_UP)
    ports.clear()
    for _ in range(ROUNDS):
        await bare.take(read_bare, reads // ROUNDS)
        await ours.take(read_ours, reads // ROUNDS)
    print(f"small read, to a bare engine: CPU {ours.cpu / bare.cpu:.2f}, p50 {ours.p50 / bare.p50:.2f} (must 1.2)")
    print(f"  p99 {ours.p99 * 1000:.1f} ms, bare {bare.p99 * 1000:.1f} ms")
    total = sum(ports.values())
    of_primary = ports.pop(primary_port(spread.engines), 0)
    shares = ", ".join(f"{count / total:.0%}" for count in ports.values())
    print(
        f"reads that the primary served: {of_primary / total:.1%} (must 2 %); shares of the replicas: {shares} (must 35 to 65 %)"
    )


def cpu_of(node: Node) -> float:
    assert node.process is not None
    times = [process.cpu_times() for process in family(node.process.pid)]
    return sum(each.user + each.system for each in times) + times[0].children_user + times[0].children_system


async def named(url: str, redis: RedisClient, calls: int) -> None:
    """On one server, because replicas change no statement."""
    async with open_sessions(url, redis) as sessions:
        await fill(sessions)
    async with open_sessions(url, redis) as sessions:
        seen: dict[str, Seen] = {}
        with watching(sessions.engines, seen):
            await call(sessions, calls)
            await read_everything(sessions)
        await sessions.engines.primary.dispose()
        await named_statements(sessions, seen, url)


async def dashboards(cluster: Cluster, alone: Sessions, spread: Sessions, reads: int) -> None:
    now = datetime.now(UTC)
    query = CostQuery(CostFilter(now - timedelta(days=365), now, None), (CostDimension.PROVIDER, CostDimension.MODEL))
    spent = {}
    for name, sessions in (("alone", alone), ("spread", spread)):
        reports, before = CostReports(sessions), cpu_of(cluster.primary)
        timed = Timed()
        await timed.take(lambda reports=reports: reports.costs(query), reads)  # type: ignore[misc]  # a lambda with a default
        spent[name] = cpu_of(cluster.primary) - before
        print(f"dashboard, {name}: p50 {timed.p50 * 1000:.1f} ms, p99 {timed.p99 * 1000:.1f} ms")
    ratio = spent["spread"] / spent["alone"]
    print(f"CPU of the primary for dashboards with two replicas, to that without: {ratio:.2f} (must 0.15)")


async def call(sessions: Sessions, calls: int) -> None:
    settings = Settings()
    ledger = PostgresLedger(sessions, SystemClock(), settings, PriceBook(settings))
    pairs = iter(list(zip(*requests_and_settlements(calls), strict=True)))

    async def caller() -> None:
        for request, settlement in pairs:
            await ledger.admit(request)
            await asyncio.sleep(0.01)
            await ledger.settle(settlement)

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    await ledger.close()


async def statements(cluster: Cluster, alone: Sessions, spread: Sessions, calls: int) -> None:
    counted = {}
    for name, sessions in (("alone", alone), ("spread", spread)):
        await cluster.primary.execute("select pg_stat_statements_reset()")
        await call(sessions, calls)
        found = await cluster.primary.value(
            f"select sum(calls) from pg_stat_statements where userid = '{SERVICE}'::regrole and toplevel"
        )
        counted[name] = int(str(found)) / calls * 1000
    print(
        f"statements on the primary per 1,000 calls at {AT_ONCE} at once: {counted['spread']:.0f}, without replicas"
        f" {counted['alone']:.0f}, ratio {counted['spread'] / counted['alone']:.2f} (must 1.7)"
    )


async def own_writes(writer: Sessions, reader: Sessions, writes: int) -> None:
    CALLER.set(Caller("benchmark", may_write=True))
    of_primary = stale = 0
    timed = Timed()
    for number in range(writes):
        async with writer.write() as session:
            await session.execute(text("insert into maintenance values (:name)"), {"name": f"own {number}"})
        begun = time.perf_counter()
        async with reader.read() as reading:
            found = await reading.execute(
                text("select inet_server_port() from maintenance where task = :name"), {"name": f"own {number}"}
            )
            row = found.first()
        timed.wall.append(time.perf_counter() - begun)
        stale += row is None
        of_primary += row is not None and row[0] == primary_port(reader.engines)
    CALLER.set(None)
    print(f"reads right after a write: {of_primary / writes:.1%} went to the primary (must 20 %), {stale} of {writes} were stale")
    print(f"  p50 {timed.p50 * 1000:.1f} ms, p99 {timed.p99 * 1000:.1f} ms")


async def run(cluster: Cluster, redis_url: str, reads: int, calls: int) -> None:
    redis = connect_redis(redis_url, RedisSettings(), SystemClock())
    one = cluster.primary.url()
    async with (
        open_sessions(one, redis) as alone,
        open_sessions(cluster.url(), redis) as spread,
        open_sessions(cluster.url(), redis) as other,
    ):
        await statements(cluster, alone, spread, calls)
        await cluster.caught_up()
        await small_reads(alone, spread, reads)
        await dashboards(cluster, alone, spread, reads // 4)
        await own_writes(spread, other, reads // 4)
    await named(one, redis, calls)
    await redis.close()


async def run_named(cluster: Cluster, redis_url: str, calls: int) -> None:
    redis = connect_redis(redis_url, RedisSettings(), SystemClock())
    await named(cluster.primary.url(), redis, calls)
    await redis.close()


async def prepare(cluster: Cluster) -> None:
    await cluster.primary.execute("create extension pg_stat_statements")
    async with cluster.primary.connected(SERVICE, DATABASE) as connection:
        await connection.execute("analyze")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--only-named", action="store_true")
    options = parser.parse_args()
    with running_cluster(1 if options.only_named else 3, settings={"shared_preload_libraries": "pg_stat_statements"}) as cluster:
        folder = cluster.primary.folder.parent / "redis"
        stores = PrivateStores.launch(folder, postgres=False, volatile=True)
        stores.wait()
        asyncio.run(prepare(cluster))
        if options.only_named:
            asyncio.run(run_named(cluster, stores.redis.reveal(), options.calls))
        else:
            asyncio.run(run(cluster, stores.redis.reveal(), options.reads, options.calls))
        stores.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
