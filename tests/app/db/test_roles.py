"""What the role that serves may do in a schema that another role owns. Every other test with a database serves with it too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text

from app.db.engines import build_engines
from app.db.migrate import MayNotMigrate, migrate, prepare_database, serving_role
from app.db.sessions import Sessions
from app.domain.errors import SettingsError, StoreUnavailable
from app.secrets.reference import SecretReference
from app.settings import DatabaseSettings

pytestmark = pytest.mark.anyio


async def fetch(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def secret(folder: Path, name: str, value: str) -> SecretReference:
    (folder / name).write_text(value, encoding="utf-8")
    return SecretReference(file=folder / name)


class TestServingRole:
    @pytest.mark.parametrize(
        "statement",
        [
            "create table mine (number int)",
            "create schema mine",
            "create temporary table mine (number int)",
            "create function mine() returns int language sql return 1",
            "create role mine",
            "create database mine",
            "create extension pg_trgm",
            "alter table api_keys add column mine int",
            "alter function make_usage_partition(timestamptz) security invoker",
            "drop table api_keys",
            "truncate usage_records",
            "update alembic_version set version_num = '0001'",
            "select count(*) from partitions.usage_records_rest",
            "alter system set work_mem = '1MB'",
            "copy api_keys to program 'cat'",
            "copy api_keys to '/tmp/keys'",
            "select pg_read_file('PG_VERSION')",
            "set role greenlang_owner",
            "set session authorization greenlang",
        ],
    )
    async def test_may_not(self, database_url: str, statement: str) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await fetch(database_url, statement)

    async def test_makes_partitions_through_the_owners_function(self, database_url: str) -> None:
        assert await fetch(database_url, "select make_usage_partition(now() + interval '7 months')") is True

    async def test_gets_stream_keys_whatever_stands_in_the_schema(self, database_url: str, owner_url: str) -> None:
        await fetch(owner_url, "create function hashtextextended(text, int) returns bigint language sql as 'select 1 / 0'")
        assert await fetch(database_url, "select count(*) from share_stream_keys('key', '1 hour', '2 hours')") == 1

    async def test_no_other_role_may_run_what_runs_as_the_owner(self, database_url: str) -> None:
        open_to_all = await fetch(
            database_url,
            "select count(*) from pg_proc where prosecdef and (has_function_privilege('public', oid, 'execute')"
            " or not exists (select from unnest(proconfig) each where each ~ '^search_path=.*, pg_temp$'))",
        )
        definers = await fetch(database_url, "select count(*) from pg_proc where prosecdef")
        assert (open_to_all, definers) == (0, 5)


class TestMigration:
    async def test_grants_what_is_new_and_nothing_twice(self, database_url: str, owner_url: str) -> None:
        await fetch(owner_url, "create table later (number bigint generated always as identity, place serial)")
        await fetch(owner_url, "create view latest as select * from later")
        await fetch(owner_url, "create function owners() returns bigint language sql security definer return 5")
        await fetch(owner_url, "revoke execute on function owners() from public")
        for _ in range(2):
            await migrate(owner_url, serving=serving_role(database_url))
        versions = "select sum(xmin::text::bigint) from pg_class where relname in ('later', 'latest', 'api_keys')"
        before = await fetch(owner_url, versions)
        await migrate(owner_url, serving=serving_role(database_url))
        assert await fetch(owner_url, versions) == before
        await fetch(database_url, "insert into later default values")
        assert await fetch(database_url, "select count(*) + owners() from latest") == 6

    async def test_of_a_role_that_may_not_is_refused_in_words(self, postgres_owner_url: str, database_url: str) -> None:
        server = postgres_owner_url.rpartition("/")[0]
        await fetch(postgres_owner_url, "create database nothing_in_it template template0")
        with pytest.raises(MayNotMigrate, match=r"database\.owner"):
            await migrate(f"{database_url.rpartition('/')[0]}/nothing_in_it")
        assert await fetch(f"{server}/nothing_in_it", "select to_regclass('api_keys')") is None

    async def test_is_no_matter_for_the_serving_role_once_it_is_done(self, database_url: str, owner_url: str) -> None:
        assert await migrate(database_url) == await migrate(owner_url)

    async def test_one_role_may_still_do_everything(self, owner_url: str, tmp_path: Path) -> None:
        settings = DatabaseSettings(primary=secret(tmp_path, "primary", owner_url))
        assert await prepare_database(settings) == await prepare_database(settings)

    async def test_with_roles_of_two_databases_is_refused_and_changes_neither(
        self, owner_url: str, postgres_owner_url: str, tmp_path: Path
    ) -> None:
        server = postgres_owner_url.rpartition("/")[0]
        await fetch(postgres_owner_url, "create database other_one template template0")
        await fetch(postgres_owner_url, "create database other_two template template0")
        for owner, primary in (("other_one", "other_two"), ("other_two", owner_url.rpartition("/")[2])):
            settings = DatabaseSettings(
                primary=secret(tmp_path, "primary", f"{server}/{primary}"), owner=secret(tmp_path, "owner", f"{server}/{owner}")
            )
            with pytest.raises(SettingsError, match="another database"):
                await prepare_database(settings)
            assert await fetch(f"{server}/{owner}", "select to_regclass('alembic_version')") is None

    async def test_with_a_role_that_looks_in_another_schema_is_refused(
        self, owner_url: str, database_url: str, tmp_path: Path
    ) -> None:
        await fetch(owner_url, "create schema elsewhere")
        name = database_url.rpartition("/")[2]
        await fetch(database_url, f"alter role current_user in database {name} set search_path = elsewhere")
        settings = DatabaseSettings(primary=secret(tmp_path, "primary", database_url), owner=secret(tmp_path, "owner", owner_url))
        with pytest.raises(SettingsError, match="search_path"):
            await prepare_database(settings)

    async def test_warns_of_a_serving_role_that_may_create_in_the_schema(
        self, owner_url: str, database_url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        await migrate(owner_url, serving=serving_role(database_url))
        assert "may create" not in caplog.text
        assert "superuser" not in caplog.text
        await fetch(owner_url, "grant create on schema public to public")
        await migrate(owner_url, serving=serving_role(database_url))
        assert "revoke create on schema public from public" in caplog.text

    async def test_for_a_role_that_does_not_exist_is_refused(self, owner_url: str) -> None:
        with pytest.raises(SettingsError, match="nobody_here does not exist"):
            await migrate(owner_url, serving="nobody_here")

    async def test_for_a_url_without_a_role_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="must name the role"):
            serving_role("postgresql://127.0.0.1/postgres")


class TestIdleTransactions:
    @pytest.fixture
    async def sessions(self, database_url: str, owner_url: str, tmp_path: Path) -> AsyncIterator[Sessions]:
        settings = DatabaseSettings(
            primary=secret(tmp_path, "primary", database_url),
            owner=secret(tmp_path, "owner", owner_url),
            idle_transaction_timeout=timedelta(seconds=0.2),
        )
        await prepare_database(settings)
        engines = build_engines(database_url, [], settings)
        yield Sessions(engines)
        await engines.close()

    async def test_are_ended_and_let_go_of_their_locks(self, sessions: Sessions, owner_url: str) -> None:
        async def idle() -> None:
            async with sessions.write() as session:
                await session.execute(text("update maintenance set task = task"))
                await fetch(
                    owner_url, "with locked as (update maintenance set task = task returning 1) select count(*) from locked"
                )
                await session.execute(text("select 1"))

        with pytest.raises(StoreUnavailable):
            await idle()
        async with sessions.read() as session:
            assert (await session.execute(text("select 1"))).scalar_one() == 1

    async def test_the_limit_is_the_roles_and_in_this_database_alone(
        self, sessions: Sessions, database_url: str, postgres_url: str
    ) -> None:
        async with sessions.read() as session:
            shown = (await session.execute(text("show idle_in_transaction_session_timeout"))).scalar_one()
        assert shown == await fetch(database_url, "show idle_in_transaction_session_timeout") == "200ms"
        assert await fetch(postgres_url, "show idle_in_transaction_session_timeout") == "0"

    async def test_several_processes_may_set_it_at_once(self, database_url: str, owner_url: str, tmp_path: Path) -> None:
        primary, owner = secret(tmp_path, "primary", database_url), secret(tmp_path, "owner", owner_url)
        all_of_them = [
            DatabaseSettings(primary=primary, owner=owner, idle_transaction_timeout=timedelta(seconds=number))
            for number in range(1, 5)
        ]
        await asyncio.gather(*map(prepare_database, all_of_them))
        assert await fetch(database_url, "show idle_in_transaction_session_timeout") in {f"{number}s" for number in range(1, 5)}
