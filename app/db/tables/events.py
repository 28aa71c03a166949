"""The outbox: events without a position yet, and the log of events with one.

`payload` is the event of a topic that has no table of its own. `number` keeps the order within a transaction.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Identity, Index, PrimaryKeyConstraint, Table, Text, UniqueConstraint, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from app.db.tables.metadata import metadata

outbox = Table(
    "outbox",
    metadata,
    Column("key", Uuid, nullable=False),
    Column("topic", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("position", BigInteger),
    Column("payload", JSONB),
    Column("sequenced_at", TIMESTAMP(timezone=True)),
    Column("number", BigInteger, Identity(always=True), nullable=False),
    PrimaryKeyConstraint("key"),
    UniqueConstraint("position"),
)
Index("ix_outbox_topic", outbox.c.topic, outbox.c.tenant, outbox.c.position)
Index("ix_outbox_unsequenced", outbox.c.created_at, postgresql_where=outbox.c.position.is_(None))
