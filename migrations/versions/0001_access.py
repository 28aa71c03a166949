"""Keys of the API: who may call, for which tenant, with which scopes."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    execute_file("0001_access.sql")
