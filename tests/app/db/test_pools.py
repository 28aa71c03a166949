from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import text

from app.db.engines import Engines, build_engines
from app.db.metrics import DatabaseMetrics
from app.db.pools import PoolFigures, figures_of, fill_pool
from app.db.sessions import Sessions
from app.domain.errors import StoreBusy
from app.settings import DatabaseSettings

pytestmark = pytest.mark.anyio

TIGHT = DatabaseSettings(pool_size=2, max_overflow=1, pool_timeout=timedelta(milliseconds=200))


@pytest.fixture
async def engines(database_url: str) -> AsyncIterator[Engines]:
    engines = build_engines(database_url, [], TIGHT)
    yield engines
    await engines.close()


async def until(engines: Engines, expected: PoolFigures) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while figures_of(engines.primary) != expected:
        assert asyncio.get_running_loop().time() < deadline, figures_of(engines.primary)
        await asyncio.sleep(0.005)


async def hold(sessions: Sessions, released: asyncio.Event) -> None:
    async with sessions.read() as session:
        await session.execute(text("select 1"))
        await released.wait()


class TestFilling:
    async def test_opens_so_many_connections_and_gives_them_to_callers(self, engines: Engines) -> None:
        await fill_pool(engines.primary, 2)
        assert figures_of(engines.primary) == PoolFigures(in_use=0, idle=2, waiting=0, refused=0)

    async def test_of_a_server_that_is_away_is_given_up(self, free_tcp_port: int) -> None:
        engines = build_engines(f"postgresql://me@127.0.0.1:{free_tcp_port}/none", [], TIGHT)
        await fill_pool(engines.primary, 2)
        assert figures_of(engines.primary).idle == 0
        await engines.close()


class TestWaitingForAConnection:
    async def test_is_counted_and_ends_in_a_refusal_and_the_next_caller_is_served(self, engines: Engines) -> None:
        sessions, released = Sessions(engines), asyncio.Event()
        holders = [asyncio.create_task(hold(sessions, released)) for _ in range(3)]
        await until(engines, PoolFigures(in_use=3, idle=0, waiting=0, refused=0))
        late = asyncio.create_task(hold(sessions, released))
        await until(engines, PoolFigures(in_use=3, idle=0, waiting=1, refused=0))
        with pytest.raises(StoreBusy, match="too much waits for PostgreSQL"):
            await late
        assert figures_of(engines.primary) == PoolFigures(in_use=3, idle=0, waiting=0, refused=1)
        released.set()
        await asyncio.gather(*holders)
        await hold(sessions, released)

    async def test_its_count_stays_when_the_pool_is_emptied(self, engines: Engines) -> None:
        sessions, released = Sessions(engines), asyncio.Event()
        holders = [asyncio.create_task(hold(sessions, released)) for _ in range(3)]
        await until(engines, PoolFigures(in_use=3, idle=0, waiting=0, refused=0))
        with pytest.raises(StoreBusy):
            await hold(sessions, released)
        released.set()
        await asyncio.gather(*holders)
        await engines.primary.dispose()
        assert figures_of(engines.primary) == PoolFigures(in_use=0, idle=0, waiting=0, refused=1)


class TestMetrics:
    async def test_show_the_pool_and_the_seconds_of_each_statement_by_name(self, engines: Engines) -> None:
        registry = CollectorRegistry()
        registry.register(DatabaseMetrics(engines))
        async with Sessions(engines).read() as session:
            await session.execute(text("select /* tests.one */ 1"))
            shown = generate_latest(registry).decode()
        server = f"{engines.primary.url.host}:{engines.primary.url.port}"
        for line in (
            f'greenlang_database_connections{{server="{server}",use="in_use"}} 1.0',
            f'greenlang_database_connection_waiters{{server="{server}"}} 0.0',
            f'greenlang_database_connection_refusals_total{{server="{server}"}} 0.0',
            f'greenlang_database_reads_total{{role="primary",server="{server}"}} 1.0',
            'greenlang_database_statement_seconds_count{statement="tests.one"} 1.0',
        ):
            assert line in shown
