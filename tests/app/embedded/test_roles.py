"""The roles of the embedded PostgreSQL, in a cluster of this version and in one that one superuser did everything in."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from app.db.migrate import migrate, prepare_database
from app.embedded.account import choose_account
from app.embedded.addresses import DATABASE_URL, OWNER_URL
from app.embedded.binaries import find_postgres
from app.embedded.stores import PrivateStores, StoresFailed
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, Settings
from app.supervisor.preparation import NotPrepared, Preparation, Prepared

pytestmark = pytest.mark.drill

_OLD_PASSWORD = "of-the-superuser"


def fetch(url: str, statement: str) -> list[tuple[object, ...]]:
    async def run() -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    return asyncio.run(run())


@contextmanager
def running(data_dir: Path) -> Iterator[PrivateStores]:
    stores = PrivateStores.launch(data_dir, valkey=False)
    stores.wait()
    try:
        yield stores
    finally:
        stores.stop()


def settings_of(stores: PrivateStores) -> DatabaseSettings:
    return DatabaseSettings(primary=stores.database, owner=stores.owner)


@pytest.fixture
def old_data_dir(tmp_path: Path, free_tcp_port: int) -> Path:
    """As the version before left it: everything by the superuser of `initdb`, whose password is in `database.url`."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    programs, prefix = find_postgres(None).bin, choose_account(data_dir, find_postgres(None).bin / "postgres").prefix
    cluster, url = data_dir / "postgres", f"postgresql://greenlang:{_OLD_PASSWORD}@127.0.0.1:{free_tcp_port}/postgres"
    initdb: list[str | Path] = [
        programs / "initdb",
        "-D",
        cluster,
        "-U",
        "greenlang",
        "--pwfile=/dev/stdin",
        "--auth=scram-sha-256",
        "-E",
        "UTF8",
    ]
    subprocess.run(
        [*prefix, *initdb, "--no-locale", "--no-sync"], input=_OLD_PASSWORD, text=True, check=True, capture_output=True
    )
    options = f"-c port={free_tcp_port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    control: list[str | Path] = [*prefix, programs / "pg_ctl", "-D", cluster, "-w", "-l", data_dir / "log.txt"]
    subprocess.run([*control, "-o", options, "start"], check=True, capture_output=True)
    try:
        asyncio.run(migrate(url, serving="greenlang"))
        fetch(url, "insert into maintenance values ('kept')")
        fetch(url, "select make_usage_partition(now())")
        fetch(url, "create type mood as enum ('good')")
    finally:
        subprocess.run([*control, "-m", "fast", "stop"], check=True, capture_output=True)
    (data_dir / DATABASE_URL).write_text(url + "\n", encoding="utf-8")
    return data_dir


class TestDataDirectoryOfOneSuperuser:
    def test_is_brought_over_with_its_data_and_starts_again(self, old_data_dir: Path) -> None:
        for times in (1, 2):
            with running(old_data_dir) as stores:
                asyncio.run(prepare_database(settings_of(stores)))
                serving = stores.database.reveal()
                fetch(serving, f"insert into maintenance values ('start {times}')")
                assert fetch(serving, "select count(*) from maintenance where task = 'kept' or task like 'start%'") == [
                    (1 + times,)
                ]
                assert fetch(serving, "select make_usage_partition(now() + interval '2 months')") == [(times == 1,)]
                assert fetch(serving, "select rolsuper from pg_roles where rolname = current_user") == [(False,)]

    def test_nothing_is_the_superusers_any_more(self, old_data_dir: Path) -> None:
        """Except what belongs to the extension, which only a superuser can own."""
        with running(old_data_dir) as stores:
            left = fetch(
                stores.owner.reveal(),
                "with extended as (select objid from pg_depend where deptype = 'e' union all select oid from pg_extension),"
                " owned as (select o.classid::regclass::text, o.objid from pg_shdepend o where o.refobjid ="
                " (select oid from pg_roles where rolsuper) and o.deptype = 'o' and o.dbid <> 0"
                " union all select 'pg_class', oid from pg_class where oid >= 16384 and relowner = 10 and relnamespace <> 99"
                " union all select 'pg_proc', oid from pg_proc where oid >= 16384 and proowner = 10"
                " union all select 'pg_type', t.oid from pg_type t left join pg_type of on of.oid = t.typelem"
                " where t.oid >= 16384 and t.typowner = 10"
                " and greatest(t.typrelid, of.typrelid) not in (select objid from extended)"
                " union all select 'pg_namespace', oid from pg_namespace where oid >= 16384 and nspowner = 10)"
                " select * from owned where objid not in (select objid from extended)",
            )
        assert left == []

    @pytest.mark.usefixtures("old_data_dir")
    def test_its_migration_by_a_superuser_warned(self, caplog: pytest.LogCaptureFixture) -> None:
        warnings = [record.getMessage() for record in caplog.get_records("setup")]
        assert any("greenlang of database.owner is a superuser" in warning for warning in warnings)

    def test_its_old_password_opens_nothing(self, old_data_dir: Path) -> None:
        before = (old_data_dir / DATABASE_URL).read_text(encoding="utf-8").strip()
        with running(old_data_dir), pytest.raises(asyncpg.InvalidPasswordError):
            fetch(before, "select 1")

    def test_a_start_that_cannot_bring_it_over_changes_nothing(self, old_data_dir: Path) -> None:
        marker = old_data_dir / "postgres" / "greenlang.roles"
        catalog = old_data_dir / "postgres" / "global" / "pg_control"
        kept = catalog.read_bytes()
        catalog.write_bytes(b"")
        with pytest.raises(StoresFailed, match="its roles were not set up"), running(old_data_dir):
            pass
        assert not marker.exists()
        catalog.write_bytes(kept)
        with running(old_data_dir) as stores:
            assert fetch(stores.owner.reveal(), "select count(*) from maintenance where task = 'kept'") == [(1,)]


class TestServiceRoleThatPutItselfOutOfAction:
    @pytest.mark.parametrize("change", ["password 'another'", "set statement_timeout = 1", "set search_path = nowhere"])
    def test_serves_again_after_the_start_that_notices(self, tmp_path: Path, change: str) -> None:
        with running(tmp_path / "data") as stores:
            asyncio.run(prepare_database(settings_of(stores)))
            fetch(stores.database.reveal(), f"alter role greenlang_service {change}")
        with pytest.raises(NotPrepared):
            prepared(tmp_path / "data")
        assert prepared(tmp_path / "data") is Prepared.WITHOUT_KEYS


def prepared(data_dir: Path) -> Prepared:
    stores = PrivateStores.launch(data_dir, valkey=False)
    try:
        return Preparation.newest_schema(Settings(database=settings_of(stores)), stores, SystemClock()).result()
    finally:
        stores.stop()


class TestLostFilesOfUrls:
    def test_are_made_anew_for_the_same_data(self, tmp_path: Path) -> None:
        with running(tmp_path / "data") as stores:
            fetch(stores.owner.reveal(), "create table kept as select 7 as number")
        for name in (DATABASE_URL, OWNER_URL):
            (tmp_path / "data" / name).unlink()
        with running(tmp_path / "data") as stores:
            assert fetch(stores.owner.reveal(), "select number from kept") == [(7,)]
            assert fetch(stores.database.reveal(), "select 1") == [(1,)]
