"""A call is ended at the place of its row: the one that is locked, also where another version of it came meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import app
from app.costs.budgets import BudgetScope, BudgetStore, NewBudget
from app.costs.ledger import PostgresLedger
from app.costs.prices import PriceBook
from app.db.engines import build_engines
from app.db.migrate import migrate
from app.db.sessions import Sessions
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, Settings
from tests.app.costs.calls import Sums, asked, settlement, sums

pytestmark = pytest.mark.anyio

BUDGET = NewBudget("b", BudgetScope(tenant="acme"), Decimal(10))
SCRIPTS = Path(app.__file__).parents[1] / "migrations"
BEFORE = "0006"
MADE_BEFORE = text(
    "insert into budgets (key, name, tenant, limit_usd, period, time_zone, thresholds, enforcement)"
    " values (gen_random_uuid(), 'b', 'acme', 10, 'MONTH', 'UTC', '{80}', 'BLOCK') returning key"
)
"""As the version before makes a budget."""


async def waits_for_a_lock(sessions: Sessions, statement: str) -> None:
    deadline = time.monotonic() + 30
    waiting = text(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like :like"
        " and datname = current_database()"
    )
    async with sessions.engines.primary.connect() as connection:
        while not (await connection.execute(waiting, {"like": f"%{statement}%"})).scalar_one():
            assert time.monotonic() < deadline, f"{statement} waits for nothing"
            await connection.rollback()
            await asyncio.sleep(0.01)


class TestCallThatIsRenewedMeanwhile:
    async def test_is_ended_where_its_newest_row_is(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(BUDGET)
        request = asked()
        await ledger.admit(request)
        async with sessions.write() as session:
            await session.execute(text("update completions set lease_until = lease_until + interval '1 minute'"))
            settling = asyncio.create_task(ledger.settle(settlement(request)))
            await waits_for_a_lock(sessions, "ledger_settle")
        await settling
        stored = await ledger.stored(request.call)
        assert stored is not None
        assert (stored.status, stored.document) == ("FINISHED", b"d")
        assert await sums(sessions, made.key) == Sums(Decimal(2), Decimal(0), Decimal(0), Decimal(2), Decimal(2))


class TestProcessThatRunsWhileItsDatabaseIsMigrated:
    @pytest.fixture
    async def old(self, postgres_owner_url: str) -> AsyncIterator[str]:
        """The database of the version before."""
        server = await asyncpg.connect(postgres_owner_url)
        await server.execute("create database version_before template template0")
        url = f"{postgres_owner_url.rpartition('/')[0]}/version_before"
        engines = build_engines(url, [], DatabaseSettings())
        async with engines.primary.begin() as connection:
            await connection.run_sync(upgrade_to, BEFORE)
        await engines.close()
        yield url
        await server.execute("drop database version_before with (force)")
        await server.close()

    async def test_settles_its_open_calls(self, old: str) -> None:
        engines = build_engines(old, [], DatabaseSettings())
        sessions = Sessions(engines)
        ledger = PostgresLedger(sessions, SystemClock(), Settings(), PriceBook(Settings()))
        async with sessions.write() as session:
            key: UUID = (await session.execute(MADE_BEFORE)).scalar_one()
            await session.execute(text("select budget_open(:key)"), {"key": key})
        before, after, late = asked(), asked(), asked()
        for request in (before, after, late):
            await ledger.admit(request)
        await ledger.settle(settlement(before))
        assert await migrate(old) > BEFORE
        await ledger.settle(settlement(after))
        async with sessions.write() as session:
            await session.execute(
                text("update completions set lease_until = now() - interval '1 second' where status = 'RUNNING'")
            )
        assert await ledger.sweep() == 1
        await ledger.settle(settlement(late))
        found = await sums(sessions, key)
        stored = [await ledger.stored(request.call) for request in (before, after, late)]
        await ledger.close()
        await engines.close()
        assert found == Sums(Decimal(6), Decimal(0), Decimal(0), Decimal(6), Decimal(6))
        assert [one.document if one else None for one in stored] == [b"d"] * 3


def upgrade_to(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
