"""Events that one process reads and the others follow through a real Valkey, which is flushed, stopped and killed meanwhile."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import event

from app.db.engines import Engines, build_engines
from app.db.sessions import Sessions
from app.embedded.binaries import find_valkey
from app.events.redis_streams import BLOCKING_MARGIN, Copy, Leader, RedisStreams
from app.events.relay import Relay
from app.events.topics import Arrived, Beat, Sequenced, Step, Topic
from app.redis.clients import RedisClient, connect_redis
from app.runtime.clock import SystemClock
from app.runtime.tasks import end_tasks
from app.settings import DatabaseSettings, RedisSettings
from tests.processes import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

TOPIC = "test"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Server:
    """A Valkey of this test's own, that keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"unix://{folder}/socket"
        self.process = self._start()

    def flush(self) -> None:
        with suppress(RedisError), Redis.from_url(self.url) as server:
            server.flushall()

    def limit(self, memory: int) -> None:
        """In bytes, 0 for none: beyond it every write is refused."""
        with Redis.from_url(self.url) as server:
            server.config_set("maxmemory", memory)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--port", "0", "--unixsocket", f"{self._folder}/socket", "--dir", str(self._folder), "--save", ""]
        process = subprocess.Popen([str(find_valkey()), *options], stdout=subprocess.DEVNULL)
        wait_until(self._answers)
        return process

    def _answers(self) -> bool:
        with suppress(RedisError), Redis.from_url(self.url) as server:
            return bool(server.ping())
        return False


class Process:
    """One server process's share: connections of its own, its relay, and a topic whose events are the keys."""

    def __init__(self, database_url: str, redis_url: str | None) -> None:
        self.engines: Engines = build_engines(database_url, [], DatabaseSettings())
        self.clients: list[RedisClient] = []
        streams = None if redis_url is None else self.streams(redis_url)
        self.relay = Relay(Sessions(self.engines), SystemClock(), streams=streams)
        self.topic: Topic[UUID] = self.relay.topic(TOPIC, UUID, _keys)
        self.statements = 0
        event.listen(self.engines.primary.sync_engine, "before_cursor_execute", self._count)
        self.running = asyncio.create_task(self.relay.run())

    def streams(self, url: str) -> RedisStreams:
        blocking = RedisSettings(socket_timeout=RedisSettings().socket_timeout + BLOCKING_MARGIN)
        self.clients += [connect_redis(url, settings, SystemClock()) for settings in (RedisSettings(), blocking)]
        return RedisStreams(*self.clients)

    async def close(self) -> None:
        await end_tasks([self.running])
        for client in self.clients:
            await client.close()
        await self.engines.close()

    def _count(self, *_: Any) -> None:
        """Any: SQLAlchemy's own arguments."""
        self.statements += 1


async def _keys(rows: Sequence[Sequenced]) -> list[UUID]:
    return [row.key for row in rows]


class Follower:
    """Everything that one subscriber has seen."""

    def __init__(self, process: Process, after: int | None = None) -> None:
        self.seen: list[UUID] = []
        self.position = 0
        self.joined = asyncio.Event()
        self._more = asyncio.Condition()
        self.task = asyncio.create_task(self._follow(process.topic.follow(after, None)))

    async def until(self, count: int) -> list[UUID]:
        async with asyncio.timeout(30), self._more:
            await self._more.wait_for(lambda: len(self.seen) >= count)
        return self.seen

    async def _follow(self, steps: AsyncGenerator[Step[UUID], None]) -> None:
        async with aclosing(steps):
            async for step in steps:
                assert isinstance(step, (Arrived, Beat))
                if isinstance(step, Arrived):
                    self.seen.append(step.event)
                self.position = step.position
                self.joined.set()
                async with self._more:
                    self._more.notify_all()


Open: TypeAlias = Callable[..., Process]
Follow: TypeAlias = Callable[..., Awaitable[Follower]]


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("valkey"))
    yield made
    made.kill()


@pytest.fixture
async def open_process(database_url: str, server: Server) -> AsyncIterator[Open]:
    opened: list[Process] = []

    def one(*, redis: bool = True) -> Process:
        opened.append(Process(database_url, server.url if redis else None))
        return opened[-1]

    yield one
    for process in opened:
        await process.close()


@pytest.fixture
async def follow() -> AsyncIterator[Follow]:
    tasks = []

    async def one(process: Process, after: int | None = None) -> Follower:
        made = Follower(process, after)
        tasks.append(made.task)
        await made.joined.wait()
        return made

    yield one
    await end_tasks(tasks)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


class Ghost:
    """A leader that writes what it is given and no more."""

    def __init__(self, client: RedisClient) -> None:
        self._streams = RedisStreams(client, client)
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self, connection: Connection, copies: Sequence[Copy]) -> None:
        history = await connection.fetchval("select history from event_log")
        place = await connection.fetchval("select oid from pg_database where datname = current_database()")
        log = f"{history}-{place}"
        assert (await self._streams.acquire_lease(log, 0)).is_self
        if copies:
            await self._streams.write(log, copies)
        self.tasks.append(asyncio.create_task(self._renew(log)))

    async def _renew(self, log: str) -> None:
        while True:
            await self._streams.acquire_lease(log, 0)
            await asyncio.sleep(0.5)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[RedisClient]:
    made = connect_redis(server.url, RedisSettings(), SystemClock())
    yield made
    await made.close()


@pytest.fixture
async def ghost(client: RedisClient) -> AsyncIterator[Ghost]:
    made = Ghost(client)
    yield made
    await end_tasks(made.tasks)


async def put(connection: Connection) -> UUID:
    key = uuid4()
    await connection.execute("insert into outbox (key, topic, tenant) values ($1, $2, 'acme')", key, TOPIC)
    await connection.execute("select pg_notify('greenlang_outbox', '')")
    return key


async def in_office(server: Server, *, after: bytes = b"") -> bytes:
    """Who tells, once somebody does, other than `after`."""
    async with asyncio.timeout(30):
        while True:
            owner = await asyncio.to_thread(_owner, server)
            if owner not in {b"", after}:
                return owner
            await asyncio.sleep(0.05)


def _owner(server: Server) -> bytes:
    with Redis.from_url(server.url) as client:
        for key in client.scan_iter("greenlang:events:*"):
            if client.type(key) == b"hash":
                return bytes(client.hget(key, "owner") or b"")
    return b""


class TestSharing:
    async def test_shows_all_the_same_and_one_alone_asks_postgresql(
        self, open_process: Open, follow: Follow, connection: Connection, server: Server
    ) -> None:
        leader = open_process()
        followers = [await follow(leader)]
        await in_office(server)
        others = [open_process() for _ in range(3)]
        followers += [await follow(process) for process in others]
        before = [process.statements for process in (leader, *others)]
        keys = []
        for number in range(200):
            keys.append(await put(connection))
            await asyncio.gather(*(follower.until(number + 1) for follower in followers))
        asked = [process.statements - was for process, was in zip((leader, *others), before, strict=True)]
        assert all(follower.seen == keys for follower in followers)
        assert asked[0] >= 200
        assert max(asked[1:]) < 100

    async def test_leaves_cursors_as_they_are_without_redis(
        self, open_process: Open, follow: Follow, connection: Connection, server: Server
    ) -> None:
        leader = open_process()
        await in_office(server)
        other, alone = open_process(), open_process(redis=False)
        first = await follow(other)
        keys = [await put(connection) for _ in range(5)]
        await first.until(5)
        await follow(leader)
        keys += [await put(connection) for _ in range(3)]
        later = await follow(alone, first.position)
        assert await later.until(3) == keys[first.seen.index(keys[4]) + 1 :]
        again = await follow(other, 2)
        assert await again.until(6) == keys[2:]


class TestRedisAway:
    async def test_loses_and_repeats_nothing_however_it_goes_and_comes_back(
        self, open_process: Open, follow: Follow, connection: Connection, server: Server
    ) -> None:
        followers = [await follow(open_process()) for _ in range(3)]
        keys: list[UUID] = []

        async def reported(count: int) -> None:
            keys.extend([await put(connection) for _ in range(count)])
            await asyncio.gather(*(follower.until(len(keys)) for follower in followers))

        await in_office(server)
        await reported(20)
        server.kill()
        await reported(20)
        server.restart()
        await in_office(server)
        await reported(20)
        server.process.send_signal(signal.SIGSTOP)
        await reported(20)
        server.process.send_signal(signal.SIGCONT)
        await reported(20)
        assert all(follower.seen == keys for follower in followers)

    async def test_that_is_flushed_while_events_come_loses_and_repeats_nothing(
        self, open_process: Open, follow: Follow, connection: Connection, server: Server
    ) -> None:
        followers = [await follow(open_process()) for _ in range(3)]
        await in_office(server)
        keys = []
        for number in range(100):
            keys.append(await put(connection))
            if number % 7 == 0:
                server.flush()
            if number % 10 == 0:
                await asyncio.gather(*(follower.until(number) for follower in followers))
        await asyncio.gather(*(follower.until(100) for follower in followers))
        assert all(follower.seen == keys for follower in followers)

    async def test_that_is_full_keeps_no_event_back(
        self, open_process: Open, follow: Follow, connection: Connection, server: Server
    ) -> None:
        followers = [await follow(open_process()) for _ in range(2)]
        await in_office(server)
        keys: list[UUID] = []
        for memory in (0, 1, 0):
            server.limit(memory)
            keys.extend([await put(connection) for _ in range(5)])
            await asyncio.gather(*(follower.until(len(keys)) for follower in followers))
        assert all(follower.seen == keys for follower in followers)


class TestALeader:
    async def test_that_dies_is_missed_by_no_one(
        self, open_process: Open, follow: Follow, connection: Connection, server: Server
    ) -> None:
        dying = open_process()
        first = await in_office(server)
        followers = [await follow(open_process()) for _ in range(2)]
        keys = [await put(connection) for _ in range(5)]
        await asyncio.gather(*(follower.until(5) for follower in followers))
        await end_tasks([dying.running])
        keys += [await put(connection) for _ in range(5)]
        await asyncio.gather(*(follower.until(10) for follower in followers))
        await in_office(server, after=first)
        keys.append(await put(connection))
        await asyncio.gather(*(follower.until(11) for follower in followers))
        assert all(follower.seen == keys for follower in followers)

    @pytest.mark.parametrize(
        "copies",
        [
            pytest.param([], id="nothing"),
            pytest.param([Copy(2, TOPIC, "acme", b"\xc0")], id="the second without the first"),
            pytest.param([Copy(1, TOPIC, "acme", b"\xc1")], id="what cannot be read"),
            pytest.param([Copy(1, "newer", "acme", b"\xc0")], id="what is of no topic here"),
        ],
    )
    async def test_that_reports_wrongly_is_not_believed(
        self, ghost: Ghost, open_process: Open, follow: Follow, connection: Connection, copies: list[Copy]
    ) -> None:
        await ghost.begin(connection, copies)
        follower = await follow(open_process())
        keys = [await put(connection) for _ in range(3)]
        assert await follower.until(3) == keys


class TestTheLease:
    async def test_is_one_processes_until_it_stops_coming_back(self, server: Server, client: RedisClient) -> None:
        one, two = RedisStreams(client, client), RedisStreams(client, client)
        first = await one.acquire_lease("log", 7)
        assert (first.position, first.is_self) == (7, True)
        assert await two.acquire_lease("log", 9) == Leader(first.name, 7, is_self=False)
        assert (await one.acquire_lease("log", 8)).position == 8
        with Redis.from_url(server.url) as direct:
            assert 2000 < int(str(direct.pttl("greenlang:events:{log}"))) <= 3000
            direct.delete("greenlang:events:{log}")
        assert (await two.acquire_lease("log", 9)).is_self
        two.resign()
        assert not (await two.acquire_lease("log", 9)).is_self
