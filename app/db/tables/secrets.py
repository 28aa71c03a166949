"""Keys that one installation makes for itself and shares among its processes."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, LargeBinary, PrimaryKeyConstraint, Table, Text, Uuid

from app.db.tables.metadata import metadata

installation_secrets = Table(
    "installation_secrets",
    metadata,
    Column("name", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    PrimaryKeyConstraint("name"),
)
stream_keys = Table(
    "stream_keys",
    metadata,
    Column("key", Uuid, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("made_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("key"),
    prefixes=["UNLOGGED"],
)
