"""Partitions are made with the rights of the schema's owner."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parent.parent / "sql" / "0008_partitions.sql"


def upgrade() -> None:
    for statement in _SQL.read_text(encoding="utf-8").split("\n--\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.execute("alter function make_usage_partition(timestamptz) security invoker reset search_path")
    op.execute("grant execute on function make_usage_partition(timestamptz) to public")
