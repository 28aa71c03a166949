"""Reads of one value in one round trip, over connections that are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text

from app.db.direct_reads import MAX_CONNECTIONS
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.settings import DatabaseSettings

pytestmark = pytest.mark.anyio
PID = "select pg_backend_pid()"


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    engines = build_engines(database_url, [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


class TestAValue:
    async def test_is_the_first_of_the_first_row(self, sessions: Sessions) -> None:
        assert await sessions.value("select $1::int + 1, 7", 4) == 5
        assert await sessions.value("select 1 where $1", False) is None

    async def test_is_read_on_a_connection_that_is_kept(self, sessions: Sessions) -> None:
        assert len({await sessions.value(PID) for _ in range(5)}) == 1

    async def test_is_read_by_many_on_few_connections(self, sessions: Sessions) -> None:
        read = await asyncio.gather(*(sessions.value("select pg_backend_pid() from pg_sleep(0.01)") for _ in range(20)))
        assert len(set(read)) == MAX_CONNECTIONS

    async def test_is_read_again_when_the_connection_has_died(self, sessions: Sessions) -> None:
        first = await sessions.value(PID)
        async with sessions.statements() as session:
            await session.execute(text("select pg_terminate_backend(:pid, 5000)"), {"pid": first})
        assert await sessions.value(PID) not in {None, first}

    async def test_that_cannot_be_read_is_an_error_of_its_caller_alone(self, sessions: Sessions) -> None:
        with pytest.raises(asyncpg.UndefinedTableError):
            await sessions.value("select a from no_such_table")
        assert await sessions.value("select 1") == 1

    async def test_of_a_caller_that_leaves_takes_no_place(self, sessions: Sessions) -> None:
        left = [asyncio.create_task(sessions.value("select pg_sleep(30)")) for _ in range(MAX_CONNECTIONS)]
        await asyncio.sleep(0.1)
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        assert await sessions.value("select 1") == 1

    async def test_without_a_server_is_unavailable(self) -> None:
        engines = build_engines("postgresql://nobody@127.0.0.1:1/none", [], DatabaseSettings())
        with pytest.raises(StoreUnavailable):
            await Sessions(engines).value("select 1")
        await engines.close()
