"""Budgets of every kind, made before budgets had owners, on their way to the newest revision."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import pytest

from app.db.migrate import migrate
from tests.app.db.upgrades import earlier_database

pytestmark = pytest.mark.anyio

REVISION = "0009"
"""The last one before budgets had owners."""
BUDGETS = {
    # name: (tenant, agent, origin, deleted), owner
    "over all": (("", "", "created", False), "INSTALLATION"),
    "over an agent of all": (("", "research", "created", False), "INSTALLATION"),
    "a tenant's": (("acme", "", "created", False), "TENANT"),
    "a tenant's agent's": (("acme", "research", "created", False), "TENANT"),
    "a tenant's, deleted": (("acme", "", "created", True), "TENANT"),
    "default": (("acme", "", "default", False), "INSTALLATION"),
    "default of an agent": (("acme", "research", "default", False), "INSTALLATION"),
    "default, deleted": (("globex", "", "default", True), "INSTALLATION"),
}
INSERT = """
    insert into budgets (key, name, tenant, agent, limit_usd, period, time_zone, thresholds, enforcement, origin, deleted_at)
    values (gen_random_uuid(), $1, $2, $3, 10, 'MONTH', 'UTC', '{80}', 'BLOCK', $4, case when $5 then now() end)
    returning key
"""
OPEN = """
    insert into budget_periods (budget, period_start, period_end, spent_usd)
    values ($1, date_trunc('month', now(), 'UTC'), date_trunc('month', now(), 'UTC') + interval '1 month', 1.5)
"""
DEFAULTS = """[{"name": "Default of globex", "tenant": "globex", "agent": "", "limit_usd": 5, "period": "DAY", "time_zone": "UTC",
    "thresholds": [90], "enforcement": "BLOCK"}, {"name": "Default of initech", "tenant": "initech", "agent": "", "limit_usd": 5,
    "period": "DAY", "time_zone": "UTC", "thresholds": [90], "enforcement": "BLOCK"}]"""


@pytest.fixture
async def url(postgres_owner_url: str) -> AsyncIterator[str]:
    """Of a database at the revision before budgets had owners."""
    async with earlier_database(postgres_owner_url, "before_owners", REVISION) as made:
        yield made


@pytest.fixture
async def database(url: str) -> AsyncIterator[asyncpg.Connection]:
    """With budgets of every kind, in their running periods."""
    connection = await asyncpg.connect(url)
    for name, (values, _) in BUDGETS.items():
        await connection.execute(OPEN, await connection.fetchval(INSERT, name, *values))
    yield connection
    await connection.close()


async def rows(connection: asyncpg.Connection) -> dict[str, tuple[str, str]]:
    found = await connection.fetch(
        "select b.name, to_jsonb(b) - 'owner' as budget, to_jsonb(p) as period from budgets b"
        " join budget_periods p on p.budget = b.key"
    )
    return {row["name"]: (row["budget"], row["period"]) for row in found}


async def test_each_gets_its_owner_and_stays_as_it_is_otherwise(database: asyncpg.Connection, url: str) -> None:
    before = await rows(database)
    assert set(before) == set(BUDGETS)
    await migrate(url)
    await database.reload_schema_state()
    assert await rows(database) == before
    now = await database.fetch("select name, owner, spent_usd from budget_now")
    expected = {name: (owner, Decimal("1.5")) for name, (_, owner) in BUDGETS.items()}
    assert {row["name"]: (row["owner"], row["spent_usd"]) for row in now} == expected


async def test_a_default_is_made_for_who_had_none_and_belongs_to_the_installation(database: asyncpg.Connection, url: str) -> None:
    await migrate(url)
    made = await database.fetch("select tenant, owner, origin from materialise_defaults($1::text::jsonb)", DEFAULTS)
    assert [tuple(row) for row in made] == [("initech", "INSTALLATION", "default")]


async def test_a_budget_without_a_word_of_its_owner_is_the_installations(database: asyncpg.Connection, url: str) -> None:
    """As a process of the version before makes it while it is being replaced."""
    await migrate(url)
    key = await database.fetchval(INSERT, "late", "acme", "", "created", False)
    assert await database.fetchval("select owner from budgets where key = $1", key) == "INSTALLATION"


@pytest.mark.parametrize(
    ("owner", "tenant", "agent"), [("TENANT", "", "a"), ("AGENT", "", "a"), ("AGENT", "acme", ""), ("", "a", "a")]
)
async def test_an_owner_that_the_scope_does_not_name_is_refused(
    database: asyncpg.Connection, url: str, owner: str, tenant: str, agent: str
) -> None:
    await migrate(url)
    key = await database.fetchval(INSERT, "new", tenant, agent, "created", False)
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute("update budgets set owner = $1 where key = $2", owner, key)
