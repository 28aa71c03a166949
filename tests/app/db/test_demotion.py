"""A server that takes no writes any more, behind the one address that is configured, as after a demotion in place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy import text

from app.costs.statements import Statements
from app.db.engines import Engines, build_engines
from app.db.sessions import NOT_DONE, PERHAPS_DONE, Sessions
from app.domain.errors import StoreUnavailable
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings

pytestmark = pytest.mark.anyio

INSERT = "insert into maintenance values ('demoted')"
END_SELF = text("select pg_terminate_backend(pg_backend_pid())")


@pytest.fixture
async def engines(database_url: str) -> AsyncIterator[Engines]:
    engines = build_engines(database_url, [], DatabaseSettings())
    yield engines
    await engines.close()


@asynccontextmanager
async def read_only_connections(database_url: str) -> AsyncIterator[None]:
    """Connections that are opened meanwhile take no writes, also afterwards."""
    connection = await asyncpg.connect(database_url)
    role = await connection.fetchval("select quote_ident(current_user)")
    database = await connection.fetchval("select quote_ident(current_database())")
    await connection.execute(f"alter role {role} in database {database} set default_transaction_read_only = on")
    try:
        yield
    finally:
        await connection.execute(f"alter role {role} in database {database} reset default_transaction_read_only")
        await connection.close()


async def write(sessions: Sessions) -> None:
    async with sessions.write() as session:
        await session.execute(text(INSERT))


class TestConnectionsToADemotedServer:
    async def test_are_left_after_the_first_refusal(self, engines: Engines, database_url: str) -> None:
        sessions = Sessions(engines)
        async with read_only_connections(database_url):
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match=NOT_DONE):
                    await write(sessions)
        await write(sessions)

    async def test_do_not_hold_the_ledger_up(self, engines: Engines, database_url: str) -> None:
        statements = Statements(engines, SystemClock(), timedelta(seconds=10))
        async with read_only_connections(database_url):
            writing = asyncio.create_task(statements.fetch(INSERT))
            await asyncio.sleep(0.2)
            assert not writing.done()
        await writing
        await statements.close()


class TestLostWrite:
    async def test_that_was_not_committed_says_that_nothing_was_changed(self, engines: Engines) -> None:
        with pytest.raises(StoreUnavailable, match=NOT_DONE):
            async with Sessions(engines).write() as session:
                await session.execute(END_SELF)

    async def test_whose_commit_was_under_way_may_be_stored(self, engines: Engines) -> None:
        async def write_and_lose() -> None:
            async with Sessions(engines).write() as session, engines.primary.connect() as other:
                pid = (await session.execute(text("select pg_backend_pid()"))).scalar_one()
                await other.execute(text("select pg_terminate_backend(:pid, 5000)"), {"pid": pid})

        with pytest.raises(StoreUnavailable, match=PERHAPS_DONE):
            await write_and_lose()

    async def test_of_single_statements_may_be_stored(self, engines: Engines) -> None:
        with pytest.raises(StoreUnavailable, match=PERHAPS_DONE):
            async with Sessions(engines).statements() as session:
                await session.execute(END_SELF)

    async def test_that_found_no_server_says_that_nothing_was_changed(self) -> None:
        engines = build_engines("postgresql://nobody@127.0.0.1:1/none", [], DatabaseSettings())
        for kind in (Sessions(engines).write, Sessions(engines).statements):
            with pytest.raises(StoreUnavailable, match=NOT_DONE):
                async with kind():
                    pass
        await engines.close()
