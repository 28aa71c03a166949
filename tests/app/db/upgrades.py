"""Databases of earlier versions, for tests that bring them to this one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.db.sql_files import MIGRATIONS


@asynccontextmanager
async def earlier_database(owner_url: str, name: str, revision: str) -> AsyncIterator[str]:
    """The URL of a new database at that revision, on the server of `owner_url`; it is dropped in the end."""
    server = await asyncpg.connect(owner_url)
    await server.execute(f"create database {name} template template0")
    url = f"{owner_url.rpartition('/')[0]}/{name}"
    try:
        await _migrate_to(url, revision)
        yield url
    finally:
        await server.execute(f"drop database {name} with (force)")
        await server.close()


async def _migrate_to(url: str, revision: str) -> None:
    def upgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()
