"""Keys that an installation makes for itself."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parent.parent / "sql" / "0006_installation_secrets.sql"


def upgrade() -> None:
    for statement in _SQL.read_text(encoding="utf-8").split("\n--\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.execute("drop table installation_secrets")
