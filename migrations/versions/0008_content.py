"""Keys that seal the entries of running streams, and an end to documents before the end of their calls."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parent.parent / "sql" / "0008_content.sql"


def upgrade() -> None:
    for statement in _SQL.read_text(encoding="utf-8").split("\n--\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.execute("drop function share_stream_keys(bytea, interval, interval)")
    op.execute("drop table stream_keys")
    op.execute("drop index ix_completions_finished_at")
