"""Functions alone, which have their current form elsewhere: nothing is left to do here."""

from __future__ import annotations

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    return
