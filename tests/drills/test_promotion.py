"""The primary of PostgreSQL dies or stands still under load, and a supervisor promotes a replica. Nothing that was acknowledged
is lost, no server process is restarted, and reads go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import aiohttp
import asyncpg
import pytest
from asyncpg.connect_utils import SessionAttribute

from app.db.failures import DATABASE_ERRORS
from tests.clusters import DATABASE, SERVICE, Cluster, running_cluster
from tests.drills.agents import Agents, Data, until_true
from tests.drills.test_alerts import MAKE, THRESHOLDS, Follower, raised
from tests.integration.test_accounting import COSTS, billed, price
from tests.servers import Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.long, pytest.mark.timeout(300)]

AT_ONCE = 8
QUIET_SECONDS = 2.0
SETTLE_SECONDS = 2.0
"""A budget whose client has left may still be made."""
MAX_FURTHER_GAP_SECONDS = 2.0
"""How much longer than a bare loop of the driver the service may take until its first acknowledged write."""
DASHBOARDS = (COSTS, "{ budgets(first: 20) { nodes { name spentUsd } } }")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@dataclass
class Load:
    """What clients do all the time. `written` are the times at which a completion was acknowledged that was asked for after
    `since`. `failed_reads` failed twice."""

    server: RunningServer
    key: str
    agents: Agents
    since: float = float("inf")
    written: list[float] = field(default_factory=list)
    reads: int = 0
    repeated_reads: int = 0
    failed_reads: list[object] = field(default_factory=list)
    budgets: int = 0
    number: int = 0

    async def complete(self) -> None:
        while True:
            self.number += 1
            begun = time.monotonic()
            if not await self.agents.ask(self.number):
                await asyncio.sleep(0.02)
            elif begun >= self.since:
                self.written.append(time.monotonic())

    async def look(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:
            client = Client(session, self.server, self.key)
            while True:
                for query in DASHBOARDS:
                    self.reads += 1
                    try:
                        await client.execute(query)
                    except AssertionError:
                        self.repeated_reads += 1
                        try:
                            await client.execute(query)
                        except AssertionError as error:
                            self.failed_reads.append(error)
                await asyncio.sleep(0.02)

    async def make_budgets(self) -> None:
        """Each is over its thresholds at once. A repeat of one whose answer was lost finds its name taken."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:
            client = Client(session, self.server, self.key)
            while True:
                asked = {"name": f"b{self.budgets}", "scope": {}, "limitUsd": "0.00001", "thresholds": THRESHOLDS}
                try:
                    await client.execute(MAKE, {"input": asked | {"enforcement": "ALERT_ONLY"}})
                except (AssertionError, TimeoutError):
                    await asyncio.sleep(0.1)
                else:
                    self.budgets += 1
                    await asyncio.sleep(0.3)


@asynccontextmanager
async def running(load: Load) -> AsyncIterator[list[Follower]]:
    assert await load.agents.ask(0)
    first = Follower(load.server, load.key)
    await first.visit(events=1)
    followers = [Follower(load.server, load.key, first.cursor) for _ in range(2)]
    working = [asyncio.create_task(load.complete()) for _ in range(AT_ONCE)]
    working += [asyncio.create_task(load.look()) for _ in range(2)]
    working += [asyncio.create_task(load.make_budgets())]
    following = [asyncio.create_task(follower.follow()) for follower in followers]
    try:
        yield followers
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await asyncio.sleep(SETTLE_SECONDS)
        there = await raised(load.server, load.key)
        await until_true(lambda: all(len(follower.seen) >= len(there) for follower in followers))
        for follower in followers:
            assert set(follower.seen) == there
            assert len(follower.seen) == len(there), "an alert was seen twice"
    finally:
        for task in (*working, *following):
            task.cancel()
        await asyncio.gather(*working, *following, return_exceptions=True)


async def bare_write(cluster: Cluster) -> float:
    """When the driver alone has written something on one of the hosts. It asks one after the other, because a host that stands
    still would use up the time for all."""
    while True:
        for node in cluster.nodes:
            with suppress(*DATABASE_ERRORS):
                connection = await asyncpg.connect(
                    node.url(),
                    target_session_attrs=SessionAttribute.read_write,
                    timeout=1,
                    command_timeout=10,
                )
                try:
                    await connection.execute("insert into bare values (1)")
                    return time.monotonic()
                finally:
                    connection.terminate()
        await asyncio.sleep(0.02)


async def fail_over(cluster: Cluster, load: Load, stack: ExitStack | None) -> tuple[float, float]:
    """Seconds until the service and the bare driver have written again. With `stack` the primary is frozen until it is closed,
    else it is killed."""
    load.since = float("inf")
    load.written.clear()
    old = cluster.primary
    begun = time.monotonic()
    if stack is None:
        await asyncio.to_thread(old.kill)
    else:
        stack.enter_context(old.frozen())
    load.since = time.monotonic()
    bare = asyncio.create_task(bare_write(cluster))
    await asyncio.sleep(QUIET_SECONDS)
    await cluster.promote()
    bare_gap = await asyncio.wait_for(bare, 60) - begun
    await until_true(lambda: bool(load.written))
    return load.written[0] - begun, bare_gap


async def check_money(load: Load) -> None:
    """What was acknowledged is in the ledger, and the ledger has what the provider has billed."""
    recorded = {record["completionId"] for record in await load.agents.records()}
    assert set(load.agents.answered.values()) <= recorded
    async with aiohttp.ClientSession() as session:
        data = cast("dict[str, Any]", await Client(session, load.server, load.key).execute(COSTS))
    totals: Data = data["costs"]["totals"]
    entries = billed(load.server)
    assert totals["requests"] == str(len(entries))
    assert Decimal(totals["costUsd"]) == sum(map(price, entries), start=Decimal(0))


@asynccontextmanager
async def loaded_server(cluster: Cluster, folder: Path) -> AsyncIterator[Load]:
    async with cluster.primary.connected(SERVICE, DATABASE) as connection:
        await connection.execute("create table bare (number int)")
    await cluster.require_acknowledgement()
    environ = {"GREENLANG_DATABASE__PRIMARY": cluster.url()}
    with start_server(folder / "data", "--workers", "2", environ=environ, log=folder / "log") as server:
        assert server.key is not None
        processes = {process.pid for process in server.servers}
        load = Load(server, server.key, Agents(server, server.key))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(running(load))
            yield load
        await check_money(load)
        assert {process.pid for process in server.servers} == processes
    assert load.failed_reads == []
    assert load.reads > 0


def report(record: pytest.FixtureRequest, what: str, load: Load, gaps: tuple[float, float]) -> None:
    ours, bare = gaps
    record.config.get_terminal_writer().line(
        f"{what}: first acknowledged write after {ours:.2f} s, bare driver {bare:.2f} s; "
        f"{load.repeated_reads} of {load.reads} reads repeated by the client"
    )
    assert ours - bare <= MAX_FURTHER_GAP_SECONDS


async def test_promotion_after_a_kill_and_again_with_the_old_primary_back(
    cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with loaded_server(cluster, tmp_path) as load:
        await asyncio.sleep(2)
        old = cluster.primary
        report(request, "killed", load, await fail_over(cluster, load, None))
        await asyncio.to_thread(cluster.bring_back, old)
        await cluster.require_acknowledgement()
        await asyncio.sleep(2)
        report(request, "killed again, old primary back as a replica", load, await fail_over(cluster, load, None))
        await asyncio.sleep(1)


async def test_promotion_while_the_old_primary_is_frozen(
    cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with loaded_server(cluster, tmp_path) as load:
        await asyncio.sleep(2)
        old = cluster.primary
        with ExitStack() as stack:
            report(request, "frozen", load, await fail_over(cluster, load, stack))
        await asyncio.sleep(2)
        assert await old.value("select not pg_is_in_recovery()"), "it still takes it for the primary"
        assert "old primary" in (tmp_path / "log").read_text()
