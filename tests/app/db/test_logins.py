"""The password of PostgreSQL's role changes while the service runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text

from app.db.engines import Engines, build_engines
from app.domain.errors import SettingsError
from app.settings import DatabaseSettings
from tests.clusters import DATABASE, SERVICE, Node, running_cluster

pytestmark = pytest.mark.anyio

NOW = text("select pg_backend_pid()")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_cluster(1) as cluster:
        yield cluster.primary


@pytest.fixture
async def engines(node: Node) -> AsyncIterator[Engines]:
    await node.execute(f"alter role {SERVICE} password 'first'")
    engines = build_engines(url_of(node, "first"), [], DatabaseSettings(pool_size=1, max_overflow=0))
    yield engines
    await engines.close()


def url_of(node: Node, password: str) -> str:
    return f"postgresql://{SERVICE}:{password}@{node.address}/{DATABASE}"


async def backend(engines: Engines) -> int:
    async with engines.primary.connect() as connection:
        found: int = (await connection.execute(NOW)).scalar_one()
    return found


class TestPasswordThatChanges:
    async def test_is_used_by_new_connections_and_old_ones_are_let_go_as_they_come_back(
        self, node: Node, engines: Engines
    ) -> None:
        first = await backend(engines)
        assert await backend(engines) == first
        await node.execute(f"alter role {SERVICE} password 'second'")
        engines.take_url("database.primary", url_of(node, "second"))
        second = await backend(engines)
        assert second != first
        assert await backend(engines) == second

    async def test_before_the_server_knows_it_leaves_the_one_before_in_use(self, node: Node, engines: Engines) -> None:
        first = await backend(engines)
        engines.take_url("database.primary", url_of(node, "second"))
        assert await backend(engines) != first
        await node.execute(f"alter role {SERVICE} password 'second'")
        engines.servers.every[0].renew_connections()
        assert await backend(engines) != first

    async def test_to_a_wrong_one_and_then_the_right_one_leaves_the_one_that_the_server_knows_in_use(
        self, node: Node, engines: Engines
    ) -> None:
        await backend(engines)
        for password in ("wrong", "second", "second"):
            engines.take_url("database.primary", url_of(node, password))
            assert await backend(engines)
        await node.execute(f"alter role {SERVICE} password 'second'")
        engines.servers.every[0].renew_connections()
        assert await backend(engines)

    async def test_with_another_server_or_database_needs_a_restart(self, node: Node, engines: Engines) -> None:
        for url in ("postgresql://a:b@elsewhere/db", f"{url_of(node, 'x')}_other"):
            with pytest.raises(SettingsError, match="restart"):
                engines.take_url("database.primary", url)
