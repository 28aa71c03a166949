"""Databases of earlier versions, with what is in them: taken over with every row, and with the same functions as a new one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest

from app.costs.ledger import PostgresLedger
from app.costs.prices import PriceBook
from app.db.engines import build_engines
from app.db.migrate import migrate
from app.db.sessions import Sessions
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, Settings
from tests.app.costs.calls import asked, payer, settlement, sums
from tests.app.db.upgrades import earlier_database

pytestmark = pytest.mark.anyio

CALLS = 10_000
BUDGET = UUID(int=1)
FORMER = """
    create function write_admissions(payers ledger_payer[], a_ord int[]) returns void language plpgsql as $$begin end$$;
    create function write_admissions(payers ledger_payer[]) returns void language plpgsql as $$begin end$$;
    create function budget_period(period text) returns text language sql immutable return period;
    create function periods_of(period text) returns text language sql begin atomic select budget_period(period); end;
    create function outbox_place(most int) returns int language sql return most;
    create view budget_now as select key, budget_period(period) as period from budgets;
    create view budget_discrepancies as select * from budget_now;
"""
"""Of other arguments, and depending on each other, as the versions before had them."""
LEDGER = f"""
    insert into budgets (key, tenant, name, limit_usd, period, time_zone, thresholds, enforcement)
    values ('{BUDGET}', 'acme', 'acme', 25000, 'MONTH', 'UTC', '{{80}}', 'BLOCK');

    insert into completions (
        key, tenant, key_name, operation, labels, owner, status, estimates, admitted_at, finished_at, expires_at
    )
    select md5(n::text)::uuid, 'acme', 'key', 'COMPLETION', '{{}}', '{UUID(int=2)}', 'FINISHED', '[]', now(), now(),
        now() + interval '1 day'
    from generate_series(1, {CALLS}) n;

    insert into usage_records (
        key, at, completion, operation, tenant, labels, key_name, provider, model, outcome, uncached_input_tokens,
        cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, visible_output_tokens, reasoning_tokens, cost_usd,
        latency_ms, confirmed
    )
    select gen_random_uuid(), c.admitted_at, c.key, c.operation, c.tenant, c.labels, c.key_name, 'openai', 'gpt-4o', 'SUCCEEDED',
        1000, 0, 0, 0, 100, 0, 2.000000000001, 12.5, true
    from completions c;

    insert into usage_rollups
    select g.minutes, u.tenant, date_bin(make_interval(mins => g.minutes), u.at, '2000-01-01Z'), u.provider, u.model, '',
        u.operation, count(*), 0, 0, 0, sum(u.uncached_input_tokens), sum(u.visible_output_tokens), 0, 0, sum(u.cost_usd), 0, 0
    from usage_records u, (values (15), (60), (1440)) g (minutes) group by 1, 2, 3, 4, 5, 7;

    insert into completions (
        key, tenant, key_name, operation, labels, owner, lease_until, status, estimates, admitted_at, expires_at, hold_budgets,
        hold_starts, hold_usd
    )
    values (
        '{UUID(int=3)}', 'acme', 'key', 'COMPLETION', '{{}}', '{UUID(int=2)}', now(), 'RUNNING',
        '[{{"provider": "openai", "model": "gpt-4o", "input": 1000, "cap": 100, "usd": 5}}]', now(), now() + interval '1 day',
        '{{{BUDGET}}}', array[date_trunc('month', now(), 'UTC')], '{{5}}'
    );

    insert into budget_periods (budget, period_start, period_end, spent_usd, held_usd)
    select '{BUDGET}', date_trunc('month', now(), 'UTC'), date_trunc('month', now(), 'UTC') + interval '1 month', sum(cost_usd), 5
    from usage_records;

    insert into outbox (key, topic, tenant, position, placed_at)
    select gen_random_uuid(), 'budget_alert', 'acme', n, now() from generate_series(1, 7) n;
    update event_log set head = 7;
"""
SPENT = CALLS * Decimal("2.000000000001")
SHAPE = {
    "functions": "select pg_get_functiondef(oid) from pg_proc where pronamespace = 'public'::regnamespace",
    "rights": (
        "select proname || coalesce(proacl::text, '') from pg_proc where pronamespace = 'public'::regnamespace and prosecdef"
    ),
    "views": "select viewname || definition from pg_views where schemaname = 'public'",
    "types": (
        "select t.typname || string_agg(a.attname || format_type(a.atttypid, a.atttypmod), ', ' order by a.attnum) from pg_type t"
        " join pg_class c on c.oid = t.typrelid join pg_attribute a on a.attrelid = c.oid"
        " where t.typnamespace = 'public'::regnamespace and c.relkind = 'c' group by t.typname"
    ),
    "columns": (
        "select concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default) from information_schema.columns"
        " where table_schema = 'public'"
    ),
    "indexes": "select indexdef from pg_indexes where schemaname = 'public'",
    "constraints": (
        "select conrelid::regclass || conname || pg_get_constraintdef(oid) from pg_constraint"
        " where connamespace = 'public'::regnamespace and conrelid <> 0"
    ),
}


@pytest.fixture(params=["0007", "0012"])
async def earlier(postgres_owner_url: str, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A database of that revision, with a ledger of many calls, one of which still runs and holds."""
    async with earlier_database(postgres_owner_url, "earlier", request.param) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(FORMER)
        await connection.execute(LEDGER)
        await connection.close()
        yield url


@pytest.fixture
async def sessions(earlier: str) -> AsyncIterator[Sessions]:
    engines = build_engines(earlier, [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


async def shape(url: str) -> dict[str, set[str]]:
    connection = await asyncpg.connect(url)
    found = {what: {row[0] for row in await connection.fetch(statement)} for what, statement in SHAPE.items()}
    await connection.close()
    return found


async def test_the_schema_is_that_of_a_new_database(earlier: str, postgres_owner_url: str) -> None:
    await migrate(earlier)
    async with earlier_database(postgres_owner_url, "new_one", "head") as new:
        expected = await shape(new)
    assert all(expected.values())
    assert await shape(earlier) == expected


async def test_every_sum_of_ten_thousand_calls_stays(earlier: str, sessions: Sessions) -> None:
    await migrate(earlier)
    found = await sums(sessions, BUDGET)
    assert (found.spent, found.records, found.rollups) == (SPENT, SPENT, SPENT)
    assert found.held == found.hold_rows == 5
    connection = await asyncpg.connect(earlier)
    assert await connection.fetchval("select count(*) from budget_discrepancies") == 0
    assert await connection.fetchval("select count(*) from completions where status = 'FINISHED'") == CALLS
    assert await connection.fetchval("select count(sequenced_at) from outbox") == 7
    await connection.close()


async def test_the_ledger_goes_on_within_the_same_budget(earlier: str, sessions: Sessions) -> None:
    await migrate(earlier)
    ledger = PostgresLedger(sessions, SystemClock(), Settings(), PriceBook(Settings()))
    assert await ledger.sweep() == 1
    request = asked(payer())
    await ledger.admit(request)
    await ledger.settle(settlement(request))
    found = await sums(sessions, BUDGET)
    await ledger.close()
    assert (found.spent, found.records, found.rollups) == (SPENT + 7, SPENT + 7, SPENT + 7)
    assert found.held == found.hold_rows == 0


async def test_events_go_on_after_the_last_position(earlier: str) -> None:
    await migrate(earlier)
    connection = await asyncpg.connect(earlier)
    key = await connection.fetchval(
        "insert into outbox (key, topic, tenant) values (gen_random_uuid(), 'provider', '') returning key"
    )
    assert await connection.fetchval("select outbox_sequence(10)") == 1
    assert await connection.fetchval("select position from outbox where key = $1", key) == 8
    assert await connection.fetchval("select outbox_forget('-1 second', 3)") == 3
    assert await connection.fetchval("select last_deleted from event_log") == 3
    await connection.close()
