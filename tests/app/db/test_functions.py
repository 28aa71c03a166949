"""The files of SQL functions: each is the one source of what it is named after, and a migration made each as it is.

A migration records a digest of every source that it replaces. A source that is changed later differs from the last digest of it,
until another migration replaces the function: databases in use would keep the old form otherwise.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from app.db.functions import FUNCTIONS, IN_ORDER
from app.db.sql_files import MIGRATIONS

DEFINITION = re.compile(r"^create (?:or replace )?(?:function|view) (\w+)", re.MULTILINE)


def test_every_file_is_made_and_has_one_definition_of_its_name() -> None:
    defined = {file.stem: DEFINITION.findall(file.read_text(encoding="utf-8")) for file in FUNCTIONS.iterdir()}
    assert defined == {name: [name] for name in IN_ORDER}


def digest(source: str) -> str:
    """Of what the database keeps of it: its opening comment may change."""
    kept = [line.rstrip() for line in source.splitlines() if not line.startswith("--")]
    return hashlib.sha256("\n".join(kept).strip().encode()).hexdigest()[:16]


def made_by_migrations() -> dict[str, tuple[str, str]]:
    """The last digest of each function, and the revision that recorded it."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    made: dict[str, tuple[str, str]] = {}
    for script in reversed([*ScriptDirectory.from_config(config).walk_revisions()]):
        for name, recorded in getattr(script.module, "REPLACES", {}).items():
            made[name] = (recorded, script.revision)
    return made


def changed_since_made(sources: dict[str, str]) -> list[str]:
    made = made_by_migrations()
    return [
        f"{name}.sql is not what revision {revision} made of it: name it in REPLACES of a new migration, with {digest(source)}"
        for name, source in sources.items()
        for recorded, revision in [made.get(name, ("", "none"))]
        if recorded != digest(source)
    ]


def sources() -> dict[str, str]:
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(FUNCTIONS.iterdir())}


class TestAChangedSource:
    def test_has_a_migration_that_makes_it(self) -> None:
        assert changed_since_made(sources()) == []

    @pytest.mark.parametrize("name", IN_ORDER)
    def test_is_found_unless_its_opening_comment_alone_changed(self, name: str) -> None:
        source = sources()[name]
        assert changed_since_made({name: f"-- Another comment.\n{source}"}) == []
        found = changed_since_made({name: re.sub("(?m)^create", "/* changed */ create", source)})
        assert [each.partition(" ")[0] for each in found] == [f"{name}.sql"]

    def test_of_a_new_function_is_found(self) -> None:
        assert len(changed_since_made({"another": "create function another() returns int language sql return 1"})) == 1


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
