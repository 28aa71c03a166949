"""Budgets and their periods. The empty text in a budget's scope means all.

A period's `held_usd` is the sum of its hold rows and its `spent_usd` that of the ledger; both change in the transaction that
changes those rows, so a budget needs no job that resets it.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

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
    text("(case when owner = 'AGENT' then agent else '' end)"),
    budgets.c.name,
    unique=True,
    postgresql_where=(budgets.c.deleted_at.is_(None)) & (budgets.c.origin == "created"),
)
Index("uq_budgets_default", budgets.c.tenant, budgets.c.agent, unique=True, postgresql_where=budgets.c.origin == "default")
Index("ix_budgets_scope", budgets.c.tenant, budgets.c.agent, postgresql_where=budgets.c.deleted_at.is_(None))

budget_periods = Table(
    "budget_periods",
    metadata,
    Column("budget", Uuid, nullable=False),
    Column("period_start", TIMESTAMP(timezone=True), nullable=False),
    Column("period_end", TIMESTAMP(timezone=True)),
    Column("spent_usd", Numeric(30, 12), nullable=False, server_default="0"),
    Column("held_usd", Numeric, nullable=False, server_default="0"),
    PrimaryKeyConstraint("budget", "period_start"),
    ForeignKeyConstraint(["budget"], ["budgets.key"]),
)

budget_alerts = Table(
    "budget_alerts",
    metadata,
    Column("key", Uuid, nullable=False),
    Column("budget", Uuid, nullable=False),
    Column("period_start", TIMESTAMP(timezone=True), nullable=False),
    Column("threshold", Integer, nullable=False),
    Column("budget_name", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("spent_usd", Numeric(30, 12), nullable=False),
    Column("limit_usd", Numeric(30, 12), nullable=False),
    Column("raised_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("key"),
    UniqueConstraint("budget", "period_start", "threshold", name="uq_budget_alerts_once"),
    ForeignKeyConstraint(["budget"], ["budgets.key"]),
)
Index("ix_budget_alerts_raised_at", budget_alerts.c.raised_at, budget_alerts.c.key)

outbox = Table(
    "outbox",
    metadata,
    Column("key", Uuid, nullable=False),
    Column("topic", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("position", BigInteger),
    Column("payload", JSONB),
    Column("placed_at", TIMESTAMP(timezone=True)),
    Column("number", BigInteger, Identity(always=True), nullable=False),
    PrimaryKeyConstraint("key"),
    UniqueConstraint("position"),
)
Index("ix_outbox_topic", outbox.c.topic, outbox.c.tenant, outbox.c.position)
Index("ix_outbox_unplaced", outbox.c.created_at, postgresql_where=outbox.c.position.is_(None))
