"""Positions in the order of commits, and followers that see each event once, on real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.events import topics
from app.events.relay import Relay
from app.events.topics import Arrived, Beat, Lost, Sequenced, Step, Topic
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

TOPIC = "test"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Connect: TypeAlias = Callable[[], Awaitable[Connection]]


class Process:
    """One server process's share: its relay, and a topic whose events are the keys."""

    def __init__(self, sessions: Sessions, kept: timedelta = timedelta(days=30)) -> None:
        self.relay = Relay(sessions, SystemClock(), kept)
        self.topic: Topic[UUID] = self.relay.topic(TOPIC, UUID, _keys)


async def _keys(rows: Sequence[Sequenced]) -> list[UUID]:
    return [row.key for row in rows]


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    engines = build_engines(database_url, [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


@pytest.fixture
async def process(sessions: Sessions) -> Process:
    made = Process(sessions)
    await made.relay.catch_up()
    return made


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Connect]:
    opened: list[Connection] = []

    async def one() -> Connection:
        opened.append(await asyncpg.connect(database_url))
        return opened[-1]

    yield one
    for connection in opened:
        connection.terminate()


async def put(connection: Connection, tenant: str = "acme", topic: str = TOPIC) -> UUID:
    key = uuid4()
    await connection.execute("insert into outbox (key, topic, tenant) values ($1, $2, $3)", key, topic, tenant)
    return key


async def positions(connection: Connection) -> dict[UUID, int]:
    return {row["key"]: row["position"] for row in await connection.fetch("select key, position from outbox")}


async def arrivals(steps: AsyncGenerator[Step[UUID], None], count: int) -> list[Arrived[UUID]]:
    found: list[Arrived[UUID]] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            step = await anext(steps)
            assert not isinstance(step, Lost)
            if isinstance(step, Arrived):
                found.append(step)
    return found


async def until_beat(steps: AsyncGenerator[Step[UUID], None]) -> tuple[list[Arrived[UUID] | Lost], int]:
    """What comes before the first Beat, and the Beat's position."""
    before: list[Arrived[UUID] | Lost] = []
    async with asyncio.timeout(10):
        async for step in steps:
            if isinstance(step, Beat):
                return before, step.position
            before.append(step)
    raise AssertionError("the topic ended")


class TestPositions:
    async def test_are_given_in_the_order_of_commits_not_of_inserts(self, process: Process, connect: Connect) -> None:
        late, early = await connect(), await connect()
        transaction = late.transaction()
        await transaction.start()
        first = await put(late)
        second = await put(early)
        await process.relay.catch_up()
        await transaction.commit()
        await process.relay.catch_up()
        found = await positions(early)
        assert found[second] < found[first]

    async def test_are_given_once_by_however_many_relays(self, sessions: Sessions, connect: Connect) -> None:
        connection = await connect()
        relays = [Process(sessions).relay for _ in range(8)]
        keys = {await put(connection) for _ in range(50)}
        await asyncio.gather(*(relay.catch_up() for relay in relays))
        found = await positions(connection)
        assert set(found) == keys
        assert sorted(found.values()) == list(range(1, 51))

    async def test_are_not_taken_back_by_a_relay_that_dies_while_it_gives_them(self, process: Process, connect: Connect) -> None:
        dying, connection = await connect(), await connect()
        key = await put(connection)
        transaction = dying.transaction()
        await transaction.start()
        await dying.execute("select outbox_sequence(10)")
        waiting = asyncio.create_task(process.relay.catch_up())
        await asyncio.sleep(0)
        dying.terminate()
        await waiting
        assert (await positions(connection))[key] == 1


class TestFollowers:
    async def test_see_what_comes_in_order_and_once(self, process: Process, connect: Connect) -> None:
        connection = await connect()
        async with aclosing(process.topic.follow(None, None)) as steps:
            assert await until_beat(steps) == ([], 0)
            keys = [await put(connection) for _ in range(5)]
            await process.relay.catch_up()
            found = await arrivals(steps, 5)
        assert [each.event for each in found] == keys
        assert {each.replayed for each in found} == {False}

    async def test_get_what_they_missed_first(self, process: Process, connect: Connect) -> None:
        connection = await connect()
        keys = [await put(connection) for _ in range(4)]
        await process.relay.catch_up()
        async with aclosing(process.topic.follow(1, None)) as steps:
            before, position = await until_beat(steps)
            later = await put(connection)
            await process.relay.catch_up()
            (live,) = await arrivals(steps, 1)
        assert [(step.event, step.replayed) for step in before if isinstance(step, Arrived)] == [(key, True) for key in keys[1:]]
        assert position == 4
        assert (live.event, live.replayed) == (later, False)

    async def test_do_not_see_other_tenants_or_topics(self, process: Process, connect: Connect) -> None:
        connection = await connect()
        await put(connection, "globex")
        own = await put(connection)
        await put(connection, topic="other")
        await process.relay.catch_up()
        async with aclosing(process.topic.follow(0, "acme")) as steps:
            before, position = await until_beat(steps)
            await put(connection, "globex")
            live = await put(connection)
            await process.relay.catch_up()
            (found,) = await arrivals(steps, 1)
        assert [step.event for step in before if isinstance(step, Arrived)] == [own]
        assert position == 3
        assert found.event == live

    async def test_that_fall_behind_read_the_table(
        self, process: Process, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(topics, "LATEST", 3)
        connection = await connect()
        async with aclosing(process.topic.follow(None, None)) as steps:
            await until_beat(steps)
            keys = []
            for _ in range(20):
                keys.append(await put(connection))
                await process.relay.catch_up()
            found = await arrivals(steps, 20)
        assert [each.event for each in found] == keys
        assert {each.replayed for each in found} == {False}

    async def test_are_informed_where_history_is_gone(self, sessions: Sessions, connect: Connect) -> None:
        process = Process(sessions, kept=timedelta(hours=1))
        connection = await connect()
        await process.relay.catch_up()
        for _ in range(3):
            await put(connection)
        await process.relay.catch_up()
        await connection.execute("update outbox set sequenced_at = now() - interval '2 hours' where position <= 2")
        oldest = await connection.fetchval("select sequenced_at from outbox where position = 3")
        await process.relay.forget()
        restarted = Process(sessions)
        await restarted.relay.catch_up()
        async with aclosing(restarted.topic.follow(1, None)) as steps:
            before, _ = await until_beat(steps)
        assert [type(step) for step in before] == [Lost, Arrived]
        assert before[0] == Lost(2, oldest)
        async with aclosing(restarted.topic.follow(2, None)) as steps:
            before, _ = await until_beat(steps)
        assert [type(step) for step in before] == [Arrived]

    async def test_who_come_from_a_process_that_was_quicker_see_nothing_again(self, sessions: Sessions, connect: Connect) -> None:
        connection, quick, slow = await connect(), Process(sessions), Process(sessions)
        await slow.relay.catch_up()
        for _ in range(3):
            await put(connection)
        await quick.relay.catch_up()
        async with aclosing(slow.topic.follow(2, None)) as steps:
            waiting = asyncio.ensure_future(until_beat(steps))
            await asyncio.wait([waiting], timeout=0.2)
            assert not waiting.done()
            await slow.relay.catch_up()
            before, position = await waiting
        assert [step.position for step in before] == [3]
        assert position == 3

    async def test_who_come_from_a_process_that_was_quicker_wake_their_own(self, sessions: Sessions, connect: Connect) -> None:
        connection, quick, slow = await connect(), Process(sessions), Process(sessions)
        running = asyncio.create_task(slow.relay.run())
        async with aclosing(slow.topic.follow(None, None)) as steps:
            await until_beat(steps)
        await put(connection, topic="other")
        await quick.relay.catch_up()
        async with aclosing(slow.topic.follow(1, None)) as steps:
            assert await until_beat(steps) == ([], 1)
        running.cancel()

    async def test_of_a_position_that_was_never_given_are_informed_so(self, process: Process) -> None:
        async with aclosing(process.topic.follow(99, None)) as steps:
            before, position = await until_beat(steps)
        assert [type(step) for step in before] == [Lost]
        assert position == 0


class TestNewcomers:
    async def test_are_informed_where_they_are_but_not_oftener_than_twice_a_second(self, sessions: Sessions) -> None:
        clock = ManualClock()
        relay = Relay(sessions, clock)
        topic = relay.topic(TOPIC, UUID, _keys)
        await relay.catch_up()
        beating = asyncio.create_task(relay.beat())
        async with aclosing(topic.follow(None, None)) as steps:
            await until_beat(steps)
            waiting = asyncio.ensure_future(anext(steps))
            for _ in range(100):
                relay.greet()
                await clock.advance(0)
            assert isinstance(await waiting, Beat)
            waiting = asyncio.ensure_future(anext(steps))
            await clock.advance(0.4)
            assert not waiting.done()
            await clock.advance(0.2)
            assert isinstance(await waiting, Beat)
        beating.cancel()


class TestRunning:
    async def test_reports_by_itself_and_goes_on_after_the_server_dropped_its_connections(
        self, process: Process, connect: Connect
    ) -> None:
        connection = await connect()
        running = asyncio.create_task(process.relay.run())
        async with aclosing(process.topic.follow(None, None)) as steps:
            await until_beat(steps)
            keys = [await put(connection)]
            await connection.execute("select pg_notify('greenlang_outbox', '')")
            found = await arrivals(steps, 1)
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where pid <> pg_backend_pid() and datname = current_database()"
            )
            keys.append(await put(connection))
            found += await arrivals(steps, 1)
        running.cancel()
        assert [each.event for each in found] == keys
