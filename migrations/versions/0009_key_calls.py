"""Keys whose running calls end with them."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table api_keys add column calls_cancelled_at timestamptz")


def downgrade() -> None:
    op.execute("alter table api_keys drop column calls_cancelled_at")
