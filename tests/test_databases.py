"""What a test finds in its database after another left something in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.databases import DatabaseServer

ROWS = """
    insert into budgets (key, name, limit_usd, period, time_zone, thresholds, enforcement)
    values (gen_random_uuid(), 'all', 1, 'DAY', 'UTC', '{80}', 'BLOCK');
    insert into budget_periods (budget, period_start, period_end, spent_usd, held_usd)
    select key, now(), now() + interval '1 day', 1, 1 from budgets;
    insert into outbox (key, topic, tenant, position) select gen_random_uuid(), 'budget_alert', 'acme', 1;
    update event_log set head = 7;
    delete from maintenance;
    truncate stream_keys;
    select make_usage_partition(now());
"""
TABLES = "select oid::regclass::text from pg_class where oid >= 16384 and relkind in ('r', 'p', 'S')"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def execute(url: str, statements: str) -> None:
    async with connected(url) as connection:
        await connection.execute(statements)


async def contents(url: str) -> dict[str, list[str]]:
    """The rows of each table, where each sequence is, and the partitions."""
    async with connected(url) as connection:
        return {
            table: [str(row) for row in await connection.fetch(f"select * from {table}")]
            for (table,) in await connection.fetch(TABLES)
        }


def test_rows_and_sequences_are_those_of_a_new_copy(database_server: DatabaseServer) -> None:
    database_server.create("untouched")
    new = asyncio.run(contents(f"{database_server.owner}/untouched"))
    with database_server.lend() as first:
        asyncio.run(execute(f"{database_server.owner}/{first}", ROWS))
        assert asyncio.run(contents(f"{database_server.owner}/{first}")) != new
    with database_server.lend() as second:
        assert second == first
        assert asyncio.run(contents(f"{database_server.owner}/{second}")) == new


@pytest.mark.parametrize(
    "change",
    [
        "create table mine (number int)",
        "create schema mine",
        "create function mine() returns int language sql return 1",
        "create type mine as enum ('one')",
        "create index mine on completions (tenant)",
        "alter function ledger_lock() rename to mine",
        "alter table completions alter column tenant drop not null",
        "alter table completions add constraint mine check (tenant <> 'mine')",
        "create trigger mine before truncate on completions execute function suppress_redundant_updates_trigger()",
        "grant select on completions to public",
        "alter default privileges grant select on tables to public",
        "do $$begin execute format('alter role current_user in database %I set work_mem = ''1MB''', current_database()); end$$",
        "do $$begin execute format('grant temporary on database %I to public', current_database()); end$$",
        "insert into provider_states select n::text, '', repeat('long', 100) from generate_series(1, 20000) n",
    ],
)
def test_one_whose_schema_or_size_has_changed_is_not_used_again(database_server: DatabaseServer, change: str) -> None:
    with database_server.lend() as first:
        asyncio.run(execute(f"{database_server.owner}/{first}", change))
    with database_server.lend() as second:
        assert second != first


def test_a_database_that_is_still_in_use_is_not_used_again(database_server: DatabaseServer) -> None:
    with asyncio.Runner() as runner:
        with database_server.lend() as first:
            left = connected(f"{database_server.service}/{first}")
            runner.run(left.__aenter__())
        with database_server.lend() as second:
            assert second != first
        runner.run(left.__aexit__(None, None, None))
