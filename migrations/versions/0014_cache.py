"""The cache's tier in PostgreSQL, and what callers have invalidated."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0014"
down_revision = "0013"
REPLACES = {"cache_invalidate": "10c35cc619cbb2c7", "ledger_admit": "006d29057705c61e"}


def upgrade() -> None:
    execute_file("0014_cache.sql")
