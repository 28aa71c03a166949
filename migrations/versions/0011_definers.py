"""What serving makes itself, it makes with the rights of the schema's owner."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parent.parent / "sql" / "0011_definers.sql"


def upgrade() -> None:
    for statement in _SQL.read_text(encoding="utf-8").split("\n--\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.execute("alter function make_usage_partition(timestamptz) security invoker reset search_path")
    for function in ("make_usage_partition(timestamptz)", "share_stream_keys(bytea, interval, interval)"):
        op.execute(f"grant execute on function {function} to public")
