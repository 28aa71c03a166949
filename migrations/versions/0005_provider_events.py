"""Changes of providers, published once by the process that noticed first."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    execute_file("0005_provider_events.sql")
