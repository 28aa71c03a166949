"""Secrets of an installation that can be replaced."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parent.parent / "sql" / "0012_export_secret.sql"


def upgrade() -> None:
    for statement in _SQL.read_text(encoding="utf-8").split("\n--\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.execute("alter table installation_secrets drop column version")
