"""Budgets of every kind, made before budgets had owners, on their way to the newest revision."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.db.migrate import migrate

pytestmark = pytest.mark.anyio

MIGRATIONS = Path(__file__).parents[3] / "migrations"
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
DEFAULTS = """[{"name": "Default of globex", "tenant": "globex", "agent": "", "limit_usd": 5, "period": "DAY", "time_zone": "UTC",
    "thresholds": [90], "enforcement": "BLOCK"}, {"name": "Default of initech", "tenant": "initech", "agent": "", "limit_usd": 5,
    "period": "DAY", "time_zone": "UTC", "thresholds": [90], "enforcement": "BLOCK"}]"""


def config() -> Config:
    found = Config()
    found.set_main_option("script_location", str(MIGRATIONS))
    return found


def revision_before(name: str) -> str:
    [script] = [
        script for script in ScriptDirectory.from_config(config()).walk_revisions() if Path(script.path).stem.endswith(name)
    ]
    assert isinstance(script.down_revision, str)
    return script.down_revision


async def migrate_to(url: str, revision: str) -> None:
    def upgrade(connection: Connection) -> None:
        to = config()
        to.attributes["connection"] = connection
        command.upgrade(to, revision)

    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()


@pytest.fixture
async def database(postgres_owner_url: str) -> AsyncIterator[asyncpg.Connection]:
    """At the revision before budgets had owners."""
    server = await asyncpg.connect(postgres_owner_url)
    await server.execute("create database before_owners template template0")
    url = f"{postgres_owner_url.rpartition('/')[0]}/before_owners"
    await migrate_to(url, revision_before("budget_owner"))
    connection = await asyncpg.connect(url)
    for name, (values, _) in BUDGETS.items():
        await connection.execute("select budget_open($1)", await connection.fetchval(INSERT, name, *values))
    yield connection
    await connection.close()
    await server.execute("drop database before_owners with (force)")
    await server.close()


async def rows(connection: asyncpg.Connection) -> dict[str, str]:
    found = await connection.fetch("select name, to_jsonb(b) - 'owner' as row from budget_now b")
    return {row["name"]: row["row"] for row in found}


async def test_each_gets_its_owner_and_stays_as_it_is_otherwise(database: asyncpg.Connection, postgres_owner_url: str) -> None:
    before = await rows(database)
    assert set(before) == set(BUDGETS)
    await migrate(f"{postgres_owner_url.rpartition('/')[0]}/before_owners")
    await database.reload_schema_state()
    assert await rows(database) == before
    owners = await database.fetch("select name, owner from budget_now")
    assert {row["name"]: row["owner"] for row in owners} == {name: owner for name, (_, owner) in BUDGETS.items()}


async def test_a_default_is_made_for_who_had_none_and_belongs_to_the_installation(
    database: asyncpg.Connection, postgres_owner_url: str
) -> None:
    await migrate(f"{postgres_owner_url.rpartition('/')[0]}/before_owners")
    made = await database.fetch("select tenant, owner, origin from materialise_defaults($1::text::jsonb)", DEFAULTS)
    assert [tuple(row) for row in made] == [("initech", "INSTALLATION", "default")]


async def test_a_budget_without_a_word_of_its_owner_is_the_installations(
    database: asyncpg.Connection, postgres_owner_url: str
) -> None:
    """As a process of the version before makes it while it is being replaced."""
    await migrate(f"{postgres_owner_url.rpartition('/')[0]}/before_owners")
    key = await database.fetchval(INSERT, "late", "acme", "", "created", False)
    assert await database.fetchval("select owner from budgets where key = $1", key) == "INSTALLATION"


@pytest.mark.parametrize(
    ("owner", "tenant", "agent"), [("TENANT", "", "a"), ("AGENT", "", "a"), ("AGENT", "acme", ""), ("", "a", "a")]
)
async def test_an_owner_that_the_scope_does_not_name_is_refused(
    database: asyncpg.Connection, postgres_owner_url: str, owner: str, tenant: str, agent: str
) -> None:
    await migrate(f"{postgres_owner_url.rpartition('/')[0]}/before_owners")
    key = await database.fetchval(INSERT, "new", tenant, agent, "created", False)
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute("update budgets set owner = $1 where key = $2", owner, key)
