"""Real stores for tests: one private PostgreSQL and Valkey a test process, migrated once, a database a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from app.embedded.stores import PrivateStores
from tests.databases import DatabaseServer


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
def database_server(private_stores: PrivateStores) -> Iterator[DatabaseServer]:
    server = DatabaseServer(private_stores.owner.reveal(), private_stores.database.reveal())
    yield server
    server.close()


@pytest.fixture(scope="session")
def _shared(database_server: DatabaseServer) -> str:
    database_server.create("shared")
    return "shared"


@pytest.fixture(scope="session")
def postgres_url(database_server: DatabaseServer, _shared: str) -> str:
    """A migrated database shared by the session's tests, as the service sees it."""
    return f"{database_server.service}/{_shared}"


@pytest.fixture(scope="session")
def postgres_owner_url(database_server: DatabaseServer, _shared: str) -> str:
    """The shared database, for its owner, who may make further ones."""
    return f"{database_server.owner}/{_shared}"


@pytest.fixture
def _database(database_server: DatabaseServer, valkey_url: str) -> Iterator[str]:
    """Valkey is emptied with it, for what is kept there belongs to what was in a database."""
    with Redis.from_url(valkey_url) as valkey:
        valkey.flushdb()
    with database_server.lend() as name:
        yield name


@pytest.fixture
def database_url(database_server: DatabaseServer, _database: str) -> str:
    """A migrated database without rows for one test, as the service sees it."""
    return f"{database_server.service}/{_database}"


@pytest.fixture
def owner_url(database_server: DatabaseServer, _database: str) -> str:
    """The test's database, for its owner."""
    return f"{database_server.owner}/{_database}"


@pytest.fixture(scope="session")
def valkey_url(private_stores: PrivateStores) -> str:
    return private_stores.redis.reveal()
