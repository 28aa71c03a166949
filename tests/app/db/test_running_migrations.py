"""Migrations of a database that is in use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from app.db.engines import driver_url
from app.db.large_indexes import LargeIndex, make_indexes
from app.db.migrate import MAX_BLOCKED_SECONDS, MigrationBlocked, large_indexes, migrate
from app.db.urls import parse_database_url
from tests.app.db.upgrades import earlier_database
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

EARLIER = "0012"
REVISION = "select version_num from alembic_version"


@pytest.fixture
async def earlier(postgres_owner_url: str) -> AsyncIterator[str]:
    async with earlier_database(postgres_owner_url, "in_use", EARLIER) as url:
        yield url


@pytest.fixture
async def other(earlier: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(earlier)
    yield connection
    await connection.close()


class TestTableThatIsLocked:
    async def test_is_waited_for_in_turns_so_that_others_can_use_it(
        self, earlier: str, other: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("select from outbox")
        migrating = asyncio.create_task(migrate(earlier))
        third = await asyncpg.connect(earlier)
        waiting = "select count(*) from pg_locks where not granted and relation = 'outbox'::regclass"
        deadline = time.monotonic() + 20
        while not await other.fetchval(waiting):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        await third.execute("insert into outbox (key, topic, tenant) values (gen_random_uuid(), 'tests', '')", timeout=10)
        assert not migrating.done()
        await transaction.rollback()
        assert await migrating > EARLIER
        assert await third.fetchval("select count(*) from outbox where topic = 'tests'") == 1
        await third.close()

    async def test_for_too_long_ends_the_migration_with_nothing_changed(
        self, earlier: str, other: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        clock = ManualClock()
        async with other.transaction():
            await other.execute("select from outbox")
            migrating = asyncio.create_task(migrate(earlier, clock=clock))
            await asyncio.sleep(0)
            await clock.advance(MAX_BLOCKED_SECONDS)
            with pytest.raises(MigrationBlocked, match="locked"):
                await migrating
        assert await other.fetchval(REVISION) == EARLIER


@pytest.fixture
async def committing(owner_url: str) -> AsyncIterator[AsyncConnection]:
    url = parse_database_url(owner_url, "test")
    engine = create_async_engine(driver_url(url), connect_args=url.connect_arguments(), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.exec_driver_sql("create table big (n int, at timestamptz)")
        await connection.exec_driver_sql("create table parts (n int) partition by range (n)")
        for number in range(2):
            bounds = f"from ({number}) to ({number + 1})"
            await connection.exec_driver_sql(f"create table part_{number} partition of parts for values {bounds}")
        yield connection
    await engine.dispose()


async def valid(connection: AsyncConnection) -> set[str]:
    found = await connection.exec_driver_sql(
        "select indexrelid::regclass::text from pg_index where indisvalid and indrelid in ('big'::regclass, 'parts'::regclass)"
    )
    return set(found.scalars())


INDEXES = (LargeIndex("ix_big_n", "big", "(n) where at is not null"), LargeIndex("ux_parts_n", "parts", "(n)", unique=True))


class TestLargeIndexes:
    async def test_are_made_while_others_write_and_only_once(self, committing: AsyncConnection, owner_url: str) -> None:
        writer = await asyncpg.connect(owner_url)
        await make_indexes(committing, INDEXES)
        await make_indexes(committing, INDEXES)
        assert await valid(committing) == {"ix_big_n", "ux_parts_n"}
        await writer.execute("insert into parts values (0)")
        with pytest.raises(asyncpg.UniqueViolationError):
            await writer.execute("insert into parts values (0)")
        await writer.close()

    async def test_one_that_was_left_unfinished_is_made_again(self, committing: AsyncConnection) -> None:
        await committing.exec_driver_sql("insert into big values (1), (1)")
        wrong = LargeIndex("ix_big_n", "big", "(n)", unique=True)
        with pytest.raises(Exception, match="could not create unique index"):
            await make_indexes(committing, [wrong])
        assert await valid(committing) == set()
        await committing.exec_driver_sql("create unique index ux_parts_n on only parts (n)")
        await make_indexes(committing, INDEXES)
        assert await valid(committing) == {"ix_big_n", "ux_parts_n"}

    async def test_of_all_migrations_are_there_after_a_migration(self, postgres_owner_url: str) -> None:
        connection = await asyncpg.connect(postgres_owner_url)
        found = await connection.fetch(
            "select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid where i.indisvalid"
        )
        await connection.close()
        assert {index.name for index in large_indexes()} <= {row["relname"] for row in found}
