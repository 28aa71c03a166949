"""Keys that seal the entries of running streams, and an end to documents before the end of their calls."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    execute_file("0008_content.sql")
