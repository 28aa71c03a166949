"""The migrations, run as the server runs them."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from app.db.migrate import DatabaseIsNewer, migrate
from app.domain.errors import StoreUnavailable

pytestmark = pytest.mark.anyio


class TestSeveralProcessesAtOnce:
    async def test_all_end_at_the_same_revision(self, postgres_owner_url: str) -> None:
        server = postgres_owner_url.rpartition("/")[0]
        connection = await asyncpg.connect(postgres_owner_url)
        await connection.execute("create database empty_one template template0")
        await connection.close()
        revisions = await asyncio.gather(*(migrate(f"{server}/empty_one") for _ in range(4)))
        assert set(revisions) == {await migrate(postgres_owner_url)}


class TestNobodyAnswers:
    async def test_is_store_unavailable(self, free_tcp_port: int) -> None:
        with pytest.raises(StoreUnavailable):
            await migrate(f"postgresql://greenlang:x@127.0.0.1:{free_tcp_port}/postgres")


class TestFreshDatabase:
    async def test_is_migrated(self, database_url: str) -> None:
        connection = await asyncpg.connect(database_url)
        tables = await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'")
        await connection.close()
        assert tables > 1


class TestDatabaseOfANewerVersion:
    async def test_is_refused_in_words_and_left_as_it_is(self, owner_url: str) -> None:
        connection = await asyncpg.connect(owner_url)
        await connection.execute("update alembic_version set version_num = '9999'")
        with pytest.raises(DatabaseIsNewer, match="newer GreenLang"):
            await migrate(owner_url)
        assert await connection.fetchval("select version_num from alembic_version") == "9999"
        await connection.close()
