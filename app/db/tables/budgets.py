"""Budgets. An empty text in a budget's scope means all. The view `budget_now` has each budget with the sums of its running
period."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Index,
    Integer,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    column,
    func,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP

from app.db.tables.metadata import metadata

budgets = Table(
    "budgets",
    metadata,
    Column("key", Uuid, nullable=False),
    Column("tenant", Text, nullable=False, server_default=""),
    Column("agent", Text, nullable=False, server_default=""),
    Column("provider", Text, nullable=False, server_default=""),
    Column("model", Text, nullable=False, server_default=""),
    Column("label_key", Text, nullable=False, server_default=""),
    Column("label_value", Text, nullable=False, server_default=""),
    Column("name", Text, nullable=False),
    Column("limit_usd", Numeric(30, 12), nullable=False),
    Column("period", Text, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("thresholds", ARRAY(Integer), nullable=False),
    Column("enforcement", Text, nullable=False),
    Column("origin", Text, nullable=False, server_default="created"),
    Column("owner", Text, nullable=False, server_default="INSTALLATION"),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("deleted_at", TIMESTAMP(timezone=True)),
    PrimaryKeyConstraint("key"),
    CheckConstraint("limit_usd >= 0", name="limit_not_negative"),
    CheckConstraint("period in ('HOUR', 'DAY', 'WEEK', 'MONTH', 'TOTAL')", name="period"),
    CheckConstraint("enforcement in ('BLOCK', 'ALERT_ONLY')", name="enforcement"),
    CheckConstraint("origin in ('created', 'default')", name="origin"),
    CheckConstraint(
        "owner = 'INSTALLATION' or (owner = 'TENANT' and tenant <> '') or (owner = 'AGENT' and tenant <> '' and agent <> '')",
        name="owner",
    ),
)
Index(
    "uq_budgets_live_name",
    budgets.c.tenant,
    budgets.c.owner,
    text("(\nCASE\n    WHEN owner = 'AGENT' THEN agent\n    ELSE ''\nEND)"),
    budgets.c.name,
    unique=True,
    postgresql_where=(budgets.c.deleted_at.is_(None)) & (budgets.c.origin == "created"),
)
Index("uq_budgets_default", budgets.c.tenant, budgets.c.agent, unique=True, postgresql_where=budgets.c.origin == "default")
Index("ix_budgets_scope", budgets.c.tenant, budgets.c.agent, postgresql_where=budgets.c.deleted_at.is_(None))

budget_now = table(
    "budget_now",
    column("key", Uuid),
    column("tenant", Text),
    column("agent", Text),
    column("name", Text),
    column("deleted_at", TIMESTAMP(timezone=True)),
)
"""The view, with only the columns that are used in conditions."""
