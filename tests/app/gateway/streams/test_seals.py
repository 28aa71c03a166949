"""The keys of running streams over a real PostgreSQL: shared, replaced, forgotten."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.embedded.stores import PrivateStores
from app.gateway.streams.seals import OPENS_FOR, REFRESH_SECONDS, SEALS_FOR, Random, StreamSeals
from app.secrets.sealing import Sealer, UnknownKeyError, UnsealError
from app.settings import DatabaseSettings
from tests.clocks import ManualClock, settle

pytestmark = pytest.mark.anyio

CONTENT_KEY = bytes(range(32))
Open = Callable[..., StreamSeals]


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    engines = build_engines(database_url, [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


@pytest.fixture
async def connection(owner_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Of the owner: tests empty tables and make databases."""
    connected = await asyncpg.connect(owner_url)
    yield connected
    await connected.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def open_seals(sessions: Sessions, clock: ManualClock) -> Open:
    """What one process has, which keeps no content unless asked to."""

    def open_one(
        content: Sealer | None = None, *, keep_content: bool = False, memory_secret: bytes = b"", random: Random = os.urandom
    ) -> StreamSeals:
        return StreamSeals(
            sessions, clock, content or Sealer(), keep_content=keep_content, memory_secret=memory_secret, random=random
        )

    return open_one


async def age(connection: asyncpg.Connection, seconds: float) -> None:
    await connection.execute("update stream_keys set made_at = made_at - make_interval(secs => $1)", seconds)


async def secrets(connection: asyncpg.Connection) -> list[bytes]:
    return [row["secret"] for row in await connection.fetch("select secret from stream_keys order by made_at")]


async def write_everything(connection: asyncpg.Connection) -> None:
    """To disk, also what is unlogged: an ordinary checkpoint leaves that in memory, one before the copy of files does not."""
    await connection.execute("create database copied template template0 strategy file_copy")
    await connection.execute("drop database copied")


class TestShared:
    async def test_what_one_process_seals_another_opens(self, open_seals: Open) -> None:
        here, there = open_seals(), open_seals()
        await here.ready()
        sealed = here.seal(b"words", b"acme")
        assert b"words" not in sealed
        assert await there.unseal(sealed, b"acme") == b"words"

    async def test_processes_that_start_together_make_one_key(self, open_seals: Open, connection: asyncpg.Connection) -> None:
        await asyncio.gather(*(open_seals().ready() for _ in range(8)))
        assert len(await secrets(connection)) == 1

    async def test_many_entries_of_a_new_key_are_one_look_at_the_database(
        self, open_seals: Open, connection: asyncpg.Connection
    ) -> None:
        looks: list[int] = []

        def random(count: int) -> bytes:
            looks.append(count)
            return os.urandom(count)

        here, there = open_seals(), open_seals(random=random)
        await here.ready()
        opened = await asyncio.gather(*(there.unseal(here.seal(b"%d" % n, b"acme"), b"acme") for n in range(50)))
        assert opened == [b"%d" % n for n in range(50)]
        assert len(looks) == 1

    async def test_another_tenants_context_opens_nothing(self, open_seals: Open) -> None:
        seals = open_seals()
        await seals.ready()
        with pytest.raises(UnsealError):
            await seals.unseal(seals.seal(b"words", b"acme"), b"globex")

    async def test_an_entry_that_an_older_version_wrote_in_clear_is_readable(self, open_seals: Open) -> None:
        assert await open_seals().unseal(Sealer().seal(b"words", b"acme"), b"acme") == b"words"


class TestContentThatIsKept:
    async def test_is_sealed_by_the_content_key_and_outlives_every_stream_key(
        self, open_seals: Open, connection: asyncpg.Connection
    ) -> None:
        seals = open_seals(Sealer([CONTENT_KEY]), keep_content=True)
        await seals.ready()
        assert Sealer([CONTENT_KEY]).unseal(seals.seal(b"words", b"acme"), b"acme") == b"words"
        assert await secrets(connection) == []

    async def test_without_a_content_key_is_sealed_all_the_same(self, open_seals: Open) -> None:
        seals = open_seals(keep_content=True)
        await seals.ready()
        assert b"words" not in seals.seal(b"words", b"acme")

    async def test_where_none_is_kept_no_content_key_opens_an_entry(self, open_seals: Open) -> None:
        seals = open_seals(Sealer([CONTENT_KEY]), keep_content=False)
        await seals.ready()
        with pytest.raises(UnknownKeyError):
            Sealer([CONTENT_KEY]).unseal(seals.seal(b"words", b"acme"), b"acme")

    async def test_entries_of_before_and_after_a_change_of_the_setting_are_readable(self, open_seals: Open) -> None:
        kept, not_kept = open_seals(Sealer([CONTENT_KEY]), keep_content=True), open_seals(Sealer([CONTENT_KEY]))
        await asyncio.gather(kept.ready(), not_kept.ready())
        assert await kept.unseal(not_kept.seal(b"words", b"acme"), b"acme") == b"words"
        assert await not_kept.unseal(kept.seal(b"words", b"acme"), b"acme") == b"words"


class TestReplaced:
    async def test_while_a_stream_runs_its_entries_of_before_and_after_are_readable_everywhere(
        self, open_seals: Open, connection: asyncpg.Connection, clock: ManualClock
    ) -> None:
        owner, watcher = open_seals(), open_seals()
        keeping = asyncio.create_task(owner.run_maintenance())
        await owner.ready()
        before = owner.seal(b"one", b"acme")
        await age(connection, SEALS_FOR.total_seconds() + 1)
        await clock.advance(REFRESH_SECONDS + 1)
        async with asyncio.timeout(10):
            while owner.seal(b"", b"acme")[1:5] == before[1:5]:
                await settle()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        after = owner.seal(b"two", b"acme")
        assert before[1:5] != after[1:5]
        assert [await watcher.unseal(each, b"acme") for each in (before, after)] == [b"one", b"two"]
        assert await open_seals().unseal(before, b"acme") == b"one"

    async def test_a_process_whose_key_is_due_takes_a_new_one_before_a_stream_starts(
        self, open_seals: Open, connection: asyncpg.Connection, clock: ManualClock
    ) -> None:
        seals = open_seals()
        await seals.ready()
        before = seals.seal(b"one", b"acme")
        await age(connection, SEALS_FOR.total_seconds() * 2)
        clock.move(SEALS_FOR.total_seconds() * 2)
        await seals.ready()
        assert seals.seal(b"two", b"acme")[1:5] != before[1:5]


class TestForgotten:
    async def test_what_an_old_key_sealed_opens_for_no_one(
        self, open_seals: Open, connection: asyncpg.Connection, clock: ManualClock
    ) -> None:
        seals = open_seals()
        await seals.ready()
        sealed = seals.seal(b"words", b"acme")
        await age(connection, OPENS_FOR.total_seconds() + 1)
        clock.move(OPENS_FOR.total_seconds() + 1)
        await seals.ready()
        for each in (seals, open_seals()):
            with pytest.raises(UnknownKeyError):
                await each.unseal(sealed, b"acme")

    async def test_no_file_of_the_database_holds_an_old_key(
        self, open_seals: Open, connection: asyncpg.Connection, private_stores: PrivateStores
    ) -> None:
        await open_seals().ready()
        (old,) = await secrets(connection)
        await write_everything(connection)
        assert holding(private_stores.data_dir, old) != []
        assert [path for path in holding(private_stores.data_dir, old) if "pg_wal" in path.parts] == []
        await age(connection, OPENS_FOR.total_seconds() + 1)
        await open_seals().ready()
        await write_everything(connection)
        assert len(await secrets(connection)) == 1
        assert holding(private_stores.data_dir, old) == []

    async def test_a_dump_of_the_database_holds_nothing_up(
        self, open_seals: Open, connection: asyncpg.Connection, database_url: str
    ) -> None:
        await open_seals().ready()
        (old,) = await secrets(connection)
        await age(connection, OPENS_FOR.total_seconds() + 1)
        dump = await asyncpg.connect(database_url)
        async with dump.transaction():
            await dump.execute("lock table stream_keys in access share mode")
            async with asyncio.timeout(5):
                await open_seals().ready()
        await dump.close()
        assert old not in await secrets(connection)


class TestHalfInMemory:
    async def test_the_database_alone_opens_nothing(self, open_seals: Open) -> None:
        here, same_machine = open_seals(memory_secret=b"a" * 32), open_seals(memory_secret=b"a" * 32)
        await here.ready()
        sealed = here.seal(b"words", b"acme")
        assert await same_machine.unseal(sealed, b"acme") == b"words"
        for other_caller in (open_seals(), open_seals(memory_secret=b"b" * 32)):
            with pytest.raises(UnknownKeyError):
                await other_caller.unseal(sealed, b"acme")


class TestDatabaseThatIsAway:
    async def test_no_stream_starts_without_a_key(self, clock: ManualClock, free_tcp_port: int) -> None:
        engines = build_engines(f"postgresql://nobody@127.0.0.1:{free_tcp_port}/none", [], DatabaseSettings())
        seals = StreamSeals(Sessions(engines), clock, Sealer(), keep_content=False)
        with pytest.raises(StoreUnavailable):
            await seals.ready()
        await engines.close()

    async def test_after_a_crash_processes_open_what_they_sealed_and_agree_again(
        self, open_seals: Open, connection: asyncpg.Connection, clock: ManualClock
    ) -> None:
        here, there = open_seals(), open_seals()
        await asyncio.gather(here.ready(), there.ready())
        before = here.seal(b"one", b"acme")
        await connection.execute("truncate stream_keys")
        clock.move(SEALS_FOR.total_seconds() * 2)
        await here.ready()
        after = here.seal(b"two", b"acme")
        for each in (here, there):
            assert [await each.unseal(sealed, b"acme") for sealed in (after, before)] == [b"two", b"one"]


def holding(folder: Path, secret: bytes) -> list[Path]:
    """The files that hold these bytes; those that end meanwhile hold nothing."""
    found = []
    for path in folder.rglob("*"):
        try:
            if path.is_file() and secret in path.read_bytes():
                found.append(path)
        except FileNotFoundError:
            continue
    return found
