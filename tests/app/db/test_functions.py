"""The files of SQL functions: each is the one source of what it is named after."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from app.db.functions import FUNCTIONS, IN_ORDER
from app.db.sql_files import MIGRATIONS

DEFINITION = re.compile(r"^create (?:or replace )?(?:function|view) (\w+)", re.MULTILINE)


def test_every_file_is_made_and_has_one_definition_of_its_name() -> None:
    defined = {file.stem: DEFINITION.findall(file.read_text(encoding="utf-8")) for file in FUNCTIONS.iterdir()}
    assert defined == {name: [name] for name in IN_ORDER}


def test_no_migration_has_a_copy() -> None:
    sources = [*MIGRATIONS.glob("sql/*.sql"), *MIGRATIONS.glob("versions/*.py")]
    assert [file.name for file in sources if DEFINITION.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("file", sorted(FUNCTIONS.iterdir()), ids=lambda file: file.stem)
def test_every_source_opens_with_what_it_does(file: Path) -> None:
    assert file.read_text(encoding="utf-8").startswith("-- ")


@pytest.mark.anyio
async def test_a_migrated_database_has_them_and_no_others(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    found = await connection.fetch(
        "select proname from pg_proc where pronamespace = current_schema()::regnamespace"
        " union all select viewname from pg_views where schemaname = current_schema()"
    )
    await connection.close()
    assert sorted(name for (name,) in found) == sorted(IN_ORDER)


@pytest.mark.parametrize(("number", "function"), [("7246001", "ledger_lock"), ("7246002", "outbox_lock")])
def test_the_number_of_an_advisory_lock_stands_in_its_function_alone(number: str, function: str) -> None:
    sources = [*MIGRATIONS.rglob("*.sql"), *(MIGRATIONS.parent / "app").rglob("*.py")]
    assert [file.stem for file in sources if number in file.read_text(encoding="utf-8")] == [function]
