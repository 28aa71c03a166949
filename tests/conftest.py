"""Real stores for tests: one private PostgreSQL and Valkey a test process, migrated once, a fresh database a test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import asyncpg
import pytest

from app.db.migrate import migrate, serving_role
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


@dataclass(frozen=True)
class Server:
    """URLs without a database, of the role that owns every database and of the role that serves."""

    owner: str
    service: str

    def create(self, database: str) -> None:
        """A copy of the template, in which the role that serves cannot make temporary tables either."""
        self.run(f"create database {database} template {_TEMPLATE}", f"revoke temporary on database {database} from public")

    def run(self, *statements: str) -> None:
        """As the owner."""
        asyncio.run(_execute(self.owner, statements))


@pytest.fixture(scope="session")
def _server(private_stores: PrivateStores) -> Server:
    """Once the template is migrated."""
    service = private_stores.database.reveal()
    server = Server(private_stores.owner.reveal().rpartition("/")[0], service.rpartition("/")[0])
    server.run(f"create database {_TEMPLATE}")
    asyncio.run(migrate(f"{server.owner}/{_TEMPLATE}", serving=serving_role(service)))
    return server


@pytest.fixture(scope="session")
def _shared(_server: Server) -> str:
    _server.create("shared")
    return "shared"


@pytest.fixture(scope="session")
def postgres_url(_server: Server, _shared: str) -> str:
    """A migrated database shared by the session's tests, as the service sees it."""
    return f"{_server.service}/{_shared}"


@pytest.fixture(scope="session")
def postgres_owner_url(_server: Server, _shared: str) -> str:
    """The shared database, for its owner, who may make further ones."""
    return f"{_server.owner}/{_shared}"


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def _database(_server: Server, _numbers: Iterator[int]) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _server.create(name)
    yield name
    _server.run(f"drop database {name} with (force)")


@pytest.fixture
def database_url(_server: Server, _database: str) -> str:
    """A fresh, migrated database for one test, as the service sees it."""
    return f"{_server.service}/{_database}"


@pytest.fixture
def owner_url(_server: Server, _database: str) -> str:
    """The test's database, for its owner."""
    return f"{_server.owner}/{_database}"


@pytest.fixture(scope="session")
def valkey_url(private_stores: PrivateStores) -> str:
    return private_stores.redis.reveal()


async def _execute(server: str, statements: Iterable[str]) -> None:
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
