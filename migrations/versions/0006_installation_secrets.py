"""Keys that an installation makes for itself."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    execute_file("0006_installation_secrets.sql")
