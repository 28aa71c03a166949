"""The words of chunks, for full text search."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    execute_file("0019_full_text.sql")
