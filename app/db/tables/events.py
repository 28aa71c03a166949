"""Where the log of events stands. Its rows are those of the outbox that have a position."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, PrimaryKeyConstraint, Table, true

from app.db.tables.metadata import metadata

event_log = Table(
    "event_log",
    metadata,
    Column("one", Boolean, nullable=False, server_default=true()),
    Column("head", BigInteger, nullable=False, server_default="0"),
    Column("gone", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("one"),
    CheckConstraint("one", name="one"),
)
