"""Settlements that look each call up once."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    execute_file("0007_ledger_settle.sql")
