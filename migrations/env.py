"""Runs the migrations on the connection that the caller hands over in `config.attributes["connection"]`, then makes the functions
that they name."""

from __future__ import annotations

from alembic import context
from alembic.runtime.migration import MigrationInfo
from sqlalchemy import Connection

from app.db.functions import replace_functions
from app.db.tables.metadata import metadata


def run() -> None:
    connection = context.config.attributes.get("connection")
    if not isinstance(connection, Connection):
        raise RuntimeError("run migrations by `greenlang migrate`")
    replaced: set[str] = set()

    def note(*, step: MigrationInfo, **_: object) -> None:
        for script in context.script.get_revisions(step.up_revision_ids):
            replaced.update(getattr(script.module, "REPLACES", ()))

    context.configure(connection=connection, target_metadata=metadata, on_version_apply=note)  # type: ignore[arg-type]  # alembic passes names
    with context.begin_transaction():
        context.run_migrations()
        replace_functions(connection, replaced)


run()
