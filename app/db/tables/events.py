"""The head of the event log, whose rows are the outbox rows that have a position; the deliveries to webhooks; and the last
published state of each provider."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
    true,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

from app.db.tables.metadata import metadata

event_log = Table(
    "event_log",
    metadata,
    Column("one", Boolean, nullable=False, server_default=true()),
    Column("head", BigInteger, nullable=False, server_default="0"),
    Column("gone", BigInteger, nullable=False, server_default="0"),
    Column("history", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    PrimaryKeyConstraint("one"),
    CheckConstraint("one", name="one"),
)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("endpoint", Text, nullable=False),
    Column("taken", BigInteger, nullable=False),
    PrimaryKeyConstraint("endpoint"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("endpoint", Text, nullable=False),
    Column("event", Uuid, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("outcome", Text),
    Column("finished_at", TIMESTAMP(timezone=True)),
    PrimaryKeyConstraint("endpoint", "event"),
    CheckConstraint("outcome in ('DELIVERED', 'GIVEN_UP')", name="outcome"),
)
Index(
    "ix_webhook_deliveries_due",
    webhook_deliveries.c.endpoint,
    webhook_deliveries.c.next_at,
    postgresql_where=webhook_deliveries.c.finished_at.is_(None),
)
Index("ix_webhook_deliveries_finished_at", webhook_deliveries.c.finished_at)

provider_states = Table(
    "provider_states",
    metadata,
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("changed_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("provider", "model"),
)
