"""Calls from their admission on. The three hold columns say in parallel what a call holds of which budget's period."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    false,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

from app.db.tables.metadata import metadata

completions = Table(
    "completions",
    metadata,
    Column("key", Uuid, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("agent", Text),
    Column("key_name", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("idempotency_key", Text),
    Column("request_hash", LargeBinary),
    Column("owner", Uuid, nullable=False),
    Column("lease_until", TIMESTAMP(timezone=True)),
    Column("status", Text, nullable=False),
    Column("swept_at", TIMESTAMP(timezone=True)),
    Column("estimates", JSONB, nullable=False),
    Column("hold_budgets", ARRAY(Uuid), nullable=False, server_default="{}"),
    Column("hold_starts", ARRAY(TIMESTAMP(timezone=True)), nullable=False, server_default="{}"),
    Column("hold_usd", ARRAY(Numeric), nullable=False, server_default="{}"),
    Column("output_cap", Integer),
    Column("capped", Boolean, nullable=False, server_default=false()),
    Column("admitted_at", TIMESTAMP(timezone=True), nullable=False),
    Column("finished_at", TIMESTAMP(timezone=True)),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False),
    Column("document", LargeBinary),
    PrimaryKeyConstraint("key"),
    CheckConstraint("status in ('RUNNING', 'FINISHED', 'FAILED', 'CANCELLED')", name="status"),
)
Index(
    "uq_completions_idempotency",
    completions.c.tenant,
    completions.c.operation,
    completions.c.idempotency_key,
    unique=True,
    postgresql_where=completions.c.idempotency_key.is_not(None),
)
Index("ix_completions_lease_until", completions.c.lease_until, postgresql_where=completions.c.status == "RUNNING")
Index("ix_completions_expires_at", completions.c.expires_at)
Index("ix_completions_finished_at", completions.c.finished_at, postgresql_where=completions.c.document.is_not(None))
