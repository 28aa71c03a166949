"""Real stores for tests: one private PostgreSQL and Valkey a test process, migrated once, a fresh database a test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import asyncpg
import pytest

from app.db.migrate import migrate
from app.embedded.stores import PrivateStores

_TEMPLATE = "migrated"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def private_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateStores]:
    stores = PrivateStores.launch(tmp_path_factory.mktemp("stores"), volatile=True)
    stores.wait()
    yield stores
    stores.stop()


@pytest.fixture(scope="session")
def _template(private_stores: PrivateStores) -> str:
    """The server's URL without a database, once the template is migrated."""
    server = private_stores.database.reveal().rpartition("/")[0]
    _run(server, f"create database {_TEMPLATE}")
    asyncio.run(migrate(f"{server}/{_TEMPLATE}"))
    return server


@pytest.fixture(scope="session")
def postgres_url(_template: str) -> str:
    """A migrated database shared by the session's tests."""
    _run(_template, f"create database shared template {_TEMPLATE}")
    return f"{_template}/shared"


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def database_url(_template: str, _numbers: Iterator[int]) -> Iterator[str]:
    """A fresh, migrated database for one test."""
    name = f"test_{next(_numbers)}"
    _run(_template, f"create database {name} template {_TEMPLATE}")
    yield f"{_template}/{name}"
    _run(_template, f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def valkey_url(private_stores: PrivateStores) -> str:
    return private_stores.redis.reveal()


def _run(server: str, statement: str) -> None:
    asyncio.run(_execute(server, statement))


async def _execute(server: str, statement: str) -> None:
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
