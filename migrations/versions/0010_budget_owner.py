"""The owner of each budget: who set it, and so may change it."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parent.parent / "sql" / "0010_budget_owner.sql"


def upgrade() -> None:
    for statement in _SQL.read_text(encoding="utf-8").split("\n--\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    raise NotImplementedError("budgets of different owners may share a name: restore a backup instead")
