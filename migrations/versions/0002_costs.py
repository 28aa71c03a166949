"""The ledger: calls with their holds, usage records with roll-ups, budgets with periods, alerts and the outbox."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parent.parent / "sql"
_FILES = (
    "0002_tables.sql",
    "0002_budget_period.sql",
    "0002_ledger_admit.sql",
    "0002_ledger_settle.sql",
    "0002_partitions.sql",
    "0002_upkeep.sql",
    "0002_forecast.sql",
)


def upgrade() -> None:
    for name in _FILES:
        for statement in (_SQL / name).read_text(encoding="utf-8").split("\n--\n"):
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    raise NotImplementedError("a ledger is never dropped: restore a backup instead")
