"""Secrets of an installation that can be replaced."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    execute_file("0012_export_secret.sql")
