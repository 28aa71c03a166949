"""The owner of each budget: who set it, and so may change it."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    execute_file("0010_budget_owner.sql")
