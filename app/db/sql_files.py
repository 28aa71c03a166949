"""SQL in files of `migrations/`. Within a file, a line that is `--` alone ends a statement."""

from __future__ import annotations

from pathlib import Path

from alembic import op
from sqlalchemy import Connection

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def execute_file(name: str) -> None:
    """Runs `migrations/sql/NAME` in the migration that calls it."""
    run_statements(op.get_bind(), MIGRATIONS / "sql" / name)


def run_statements(connection: Connection, file: Path) -> None:
    for statement in file.read_text(encoding="utf-8").split("\n--\n"):
        connection.exec_driver_sql(statement)
