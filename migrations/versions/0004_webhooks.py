"""What was sent to webhooks, and what is still to be sent."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    execute_file("0004_webhooks.sql")
