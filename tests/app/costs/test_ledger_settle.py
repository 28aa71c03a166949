"""A call is ended at the place of its row: the one that is locked, also where another version of it came meanwhile."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from decimal import Decimal

import asyncpg
import pytest
from sqlalchemy import text

from app.costs.budgets import BudgetScope, BudgetStore, NewBudget
from app.costs.ledger import PostgresLedger
from app.db.migrate import migrate, serving_role
from app.db.sessions import Sessions
from tests.app.costs.calls import Sums, asked, settlement, sums

pytestmark = pytest.mark.anyio

BUDGET = NewBudget("b", BudgetScope(tenant="acme"), Decimal(10))
BEFORE = "0012"
BACK = """
    drop table cache_entries, cache_evictions, cache_invalidations;
    drop table chunks, documents, collections;
    drop table label_rollups, label_rollups_filled, label_rollups_stale;
    delete from maintenance where task not in ('tidy', 'reconcile');
    drop function write_admissions;
    drop type ledger_admitted, ledger_hold;
    alter table maintenance rename to upkeep;
    alter index pk_maintenance rename to pk_upkeep;
    alter table outbox rename column sequenced_at to placed_at;
    alter index ix_outbox_unsequenced rename to ix_outbox_unplaced;
    alter table event_log rename column last_deleted to gone;
    update alembic_version set version_num = '0012';
"""
"""The names and types of that revision, under a ledger that has its connections and its open calls."""


BACK_WHILE_IN_USE = """
    drop table chunks, documents, collections;
    drop schema if exists vectors cascade;
    create or replace function mark_stale_labels(sums ledger_sum[]) returns void language plpgsql as $$begin end$$;
    drop table label_rollups, label_rollups_filled, label_rollups_stale;
    delete from maintenance where task not in ('tidy', 'reconcile', 'cache');
    update alembic_version set version_num = '0015';
"""
"""Revision 0015. The ledger of that version works on it: it marked nothing."""
CALLERS = 8


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
    async def test_fails_no_call_meanwhile(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions, owner_url: str, database_url: str
    ) -> None:
        made = await budgets.create(replace(BUDGET, limit_usd=Decimal(1_000_000)))
        owner = await asyncpg.connect(owner_url)
        await owner.execute(BACK_WHILE_IN_USE)
        settled, migrated = 0, asyncio.Event()

        async def call_on(enough: int = 20) -> None:
            nonlocal settled
            afterwards = 0
            while afterwards < enough:
                request = asked()
                await ledger.admit(request)
                await ledger.settle(settlement(request))
                settled += 1
                afterwards += migrated.is_set()

        async def migrate_amid() -> int:
            deadline = time.monotonic() + 60
            while settled < 10 * CALLERS:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            before = settled
            assert await migrate(owner_url, serving=serving_role(database_url)) > "0015"
            migrated.set()
            return settled - before

        migrating = asyncio.create_task(migrate_amid())
        await asyncio.gather(migrating, *(call_on() for _ in range(CALLERS)))
        await owner.close()
        assert migrating.result() > 0
        found = await sums(sessions, made.key)
        assert found == Sums(Decimal(2 * settled), Decimal(0), Decimal(0), Decimal(2 * settled), Decimal(2 * settled))

    async def test_settles_its_open_calls_and_admits_new_ones(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions, owner_url: str, database_url: str
    ) -> None:
        made = await budgets.create(BUDGET)
        before, after, late, new = asked(), asked(), asked(), asked()
        for request in (before, after, late):
            await ledger.admit(request)
        await ledger.settle(settlement(before))
        owner = await asyncpg.connect(owner_url)
        await owner.execute(BACK)
        await owner.close()
        assert await migrate(owner_url, serving=serving_role(database_url)) > BEFORE
        await ledger.settle(settlement(after))
        async with sessions.write() as session:
            await session.execute(
                text("update completions set lease_until = now() - interval '1 second' where status = 'RUNNING'")
            )
        assert await ledger.sweep() == 1
        await ledger.settle(settlement(late))
        await ledger.admit(new)
        await ledger.settle(settlement(new))
        found = await sums(sessions, made.key)
        stored = [await ledger.stored(request.call) for request in (before, after, late, new)]
        assert found == Sums(Decimal(8), Decimal(0), Decimal(0), Decimal(8), Decimal(8))
        assert [one.document if one else None for one in stored] == [b"d"] * 4
