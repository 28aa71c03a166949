"""Functions alone, which have their current form elsewhere: nothing is left to do here."""

from __future__ import annotations

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    return
