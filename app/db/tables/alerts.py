"""Alerts of budgets: each threshold once per budget and period. Name, spending and limit are those at the time of the alert."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

from app.db.tables.metadata import metadata

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
