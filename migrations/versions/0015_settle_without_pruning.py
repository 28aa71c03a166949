"""Late settlements without a choice of partitions at run time, which crashes PostgreSQL 18.6. Functions alone."""

from __future__ import annotations

revision = "0015"
down_revision = "0014"
REPLACES = {"ledger_settle": "8039737e42ddf7e0"}


def upgrade() -> None:
    return
