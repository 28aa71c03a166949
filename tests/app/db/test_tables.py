"""The tables as SQLAlchemy knows them, compared with a migrated database, and used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import app.db.tables as package
from app.db.tables.metadata import metadata

TABLES = Path(package.__file__).parent
APP = TABLES.parents[1]


def is_known(item: object, name: str | None, kind: str, *_: object) -> bool:
    """Leaves out the tables that SQL functions and fixed statements alone use."""
    return kind != "table" or name in metadata.tables


def differences(connection: Connection) -> list[object]:
    compared = {"compare_type": True, "compare_server_default": True, "include_object": is_known}
    return list(compare_metadata(MigrationContext.configure(connection, opts=compared), metadata))


@pytest.mark.anyio
async def test_columns_indexes_and_keys_are_those_of_the_database(postgres_owner_url: str) -> None:
    engine = create_async_engine(postgres_owner_url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    async with engine.connect() as connection:
        found = await connection.run_sync(differences)
    await engine.dispose()
    assert found == []


def test_every_module_of_tables_is_known_by_the_package() -> None:
    modules = {file.stem for file in TABLES.glob("*.py")} - {"__init__", "metadata"}
    assert set(package.__all__) == modules


def test_every_table_is_used_by_the_application() -> None:
    sources = [file.read_text(encoding="utf-8") for file in APP.rglob("*.py") if TABLES not in file.parents]
    imported = {
        name
        for source in sources
        for names in re.findall(r"^from app\.db\.tables\.\w+ import (.+)$", source, re.MULTILINE)
        for name in names.split(", ")
    }
    views = {"budget_now"}
    assert imported - views == set(metadata.tables)
