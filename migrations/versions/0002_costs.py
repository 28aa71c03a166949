"""The ledger: calls with their holds, usage records with roll-ups, budgets with periods, alerts and the outbox."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    execute_file("0002_tables.sql")
