"""Keys whose running calls end with them."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    execute_file("0009_key_calls.sql")
