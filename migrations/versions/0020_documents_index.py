"""Documents by their collection and id, in any state; and what the last comparison of a collection with its store found."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    execute_file("0020_documents_index.sql")
