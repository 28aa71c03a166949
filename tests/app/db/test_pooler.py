"""Through PgBouncer in transaction mode: each statement may reach another connection of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from app.costs.statements import Statements
from app.db.engines import Engines, build_engines
from app.db.migrate import prepare_database
from app.db.sessions import Sessions
from app.db.wakeups import listen
from app.domain.errors import SettingsError, StoreUnavailable
from app.runtime.clock import SystemClock
from app.runtime.tasks import end_tasks
from app.secrets.reference import SecretReference
from app.settings import DatabaseSettings
from tests.poolers import POOL_SIZE, start_pooler

pytestmark = pytest.mark.anyio

CONNECTIONS = 20
STATEMENTS = 10_000


def secret(folder: Path, name: str, value: str) -> SecretReference:
    (folder / name).write_text(value, encoding="utf-8")
    return SecretReference(file=folder / name)


@pytest.fixture
def pooled_url(tmp_path: Path, database_url: str, owner_url: str) -> Iterator[str]:
    with start_pooler(tmp_path, database_url, owner_url) as (service, _):
        yield service


@pytest.fixture
def settings(tmp_path: Path, pooled_url: str, database_url: str, owner_url: str) -> DatabaseSettings:
    return DatabaseSettings(
        primary=secret(tmp_path, "primary", pooled_url),
        direct=secret(tmp_path, "direct", database_url),
        owner=secret(tmp_path, "owner", owner_url),
        statement_cache=False,
        statement_timeout=timedelta(seconds=1),
        lock_timeout=timedelta(milliseconds=300),
        pool_size=CONNECTIONS,
        max_overflow=0,
    )


@pytest.fixture
async def engines(settings: DatabaseSettings, pooled_url: str) -> AsyncIterator[Engines]:
    await prepare_database(settings)
    engines = build_engines(pooled_url, [], settings)
    yield engines
    await engines.close()


class TestNotifications:
    async def test_arrive_on_the_direct_connection(self, engines: Engines) -> None:
        woken = asyncio.Event()
        listening = asyncio.create_task(listen(engines.listening, "test_channel", woken.set, SystemClock()))
        await asyncio.wait_for(woken.wait(), 10)
        woken.clear()
        async with Sessions(engines).write() as session:
            await session.execute(text("notify test_channel"))
        await asyncio.wait_for(woken.wait(), 10)
        await end_tasks([listening])

    async def test_are_not_waited_for_if_the_pooler_is_all_there_is(self, settings: DatabaseSettings, owner_url: str) -> None:
        alone = settings.model_copy(update={"direct": None, "owner": None, "primary": settings.owner})
        engines = build_engines(owner_url, [], alone)
        await listen(engines.listening, "test_channel", lambda: None, SystemClock())
        await engines.close()
        assert await engines.listening() is None


class TestMigration:
    async def test_goes_through_the_pooler_if_there_is_no_other_way(
        self, tmp_path: Path, settings: DatabaseSettings, pooled_url: str, owner_url: str, database_url: str
    ) -> None:
        through = secret(tmp_path, "through", _with_login(pooled_url, owner_url))
        alone = settings.model_copy(update={"direct": None, "owner": None, "primary": through})
        assert await prepare_database(alone) == await prepare_database(settings)

    async def test_a_direct_address_of_another_database_is_refused(
        self, settings: DatabaseSettings, tmp_path: Path, postgres_url: str
    ) -> None:
        other = settings.model_copy(update={"direct": secret(tmp_path, "other", postgres_url)})
        with pytest.raises(SettingsError, match=r"another database than database\.direct"):
            await prepare_database(other)


def _with_login(url: str, other: str) -> str:
    """`url` with the role of `other`."""
    return f"{other.rpartition('@')[0]}@{url.rpartition('@')[2]}"


class TestStatements:
    @pytest.mark.drill
    @pytest.mark.long
    async def test_none_of_ten_thousand_fails_on_twenty_connections_over_four(self, engines: Engines) -> None:
        sessions, seen, ledger = Sessions(engines), set[int](), Statements(engines, SystemClock(), timedelta(seconds=5))
        kinds = [
            "select cast(:number as integer), pg_backend_pid()",
            "select cast(:number as integer), pg_backend_pid(), clock_timestamp()",
            "select cast(:number as integer), pg_backend_pid(), cast('{}' as jsonb)",
        ]

        async def work(first: int) -> None:
            for number in range(first, STATEMENTS, CONNECTIONS):
                statement = text(kinds[number % len(kinds)])
                way = (sessions.read, sessions.write, sessions.statements)[number % 7 % 3]
                async with way() as session:
                    row = (await session.execute(statement, {"number": number})).one()
                    assert row[0] == number
                    seen.add(row[1])

        async def settle() -> None:
            for number in range(500):
                assert [tuple(row) for row in await ledger.fetch("select $1::int, $2::text", number, "x")] == [(number, "x")]

        await asyncio.gather(settle(), *(work(first) for first in range(CONNECTIONS)))
        await ledger.close()
        assert 1 < len(seen) <= POOL_SIZE

    async def test_one_that_takes_too_long_is_ended_by_the_server(self, engines: Engines) -> None:
        await _reconnected(engines)
        with pytest.raises(StoreUnavailable) as ended:
            async with Sessions(engines).read() as session:
                await session.execute(text("select pg_sleep(20)"))
        assert "statement timeout" in str(ended.value.__cause__)

    async def test_one_that_waits_too_long_for_a_lock_is_ended_and_the_session_is_whole(self, engines: Engines) -> None:
        await _reconnected(engines)
        sessions, change = Sessions(engines), text("update maintenance set task = task")
        async with sessions.write() as session:
            await session.execute(change)
            with pytest.raises(StoreUnavailable) as ended:
                async with sessions.write() as other:
                    await other.execute(change)
        assert "lock timeout" in str(ended.value.__cause__)
        async with sessions.write() as session:
            assert (await session.execute(change)).rowcount >= 0


async def _reconnected(engines: Engines) -> None:
    """The pooler opens its connections anew, so that they have the limits of the role."""
    listener = await engines.listening()
    assert listener is not None
    async with listener.connect() as connection:
        await connection.execute(
            text(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and usename = current_user"
            )
        )
    await engines.primary.dispose()
    async with asyncio.timeout(10):
        while True:
            with suppress(StoreUnavailable):
                async with Sessions(engines).read() as session:
                    if (await session.execute(text("show statement_timeout"))).scalar_one() == "1s":
                        return
            await asyncio.sleep(0.02)
