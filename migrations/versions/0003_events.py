"""Positions of events, given in the order of commits."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    execute_file("0003_events.sql")
