"""Collections, their documents and chunks. A document that changes gets a new row; the row that is ready is the one shown."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    execute_file("0016_vectors.sql")
