"""Sums of usage records per label, filled in the background. Settlements mark what they change of it."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0017"
down_revision = "0016"
REPLACES = {
    "mark_stale_labels": "170bcb586f6a3545",
    "ledger_settle": "6544a0dc5864f16f",
    "fill_label_rollups": "86c5598785179f65",
    "extend_label_rollups": "79cfd01d5ec18cff",
    "refresh_label_rollups": "aadc10f9824213fd",
}


def upgrade() -> None:
    execute_file("0017_label_rollups.sql")
