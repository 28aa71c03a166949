"""How documents got their vectors. The schema of the extension `vector` and its tables, and the functions that make those.

The extension itself is no part of a revision: only a superuser can create it (`app/db/vector_extension.py`).
"""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0018"
down_revision = "0017"
REPLACES = {
    "make_vector_table": "ecb7129a19825419",
    "drop_vector_table": "aa8b073385055df9",
    "index_vector_table": "703ea98f2e402bf5",
}


def upgrade() -> None:
    execute_file("0018_pgvector.sql")
