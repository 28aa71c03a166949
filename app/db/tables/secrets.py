"""Keys that one installation makes for itself and shares among its processes."""

from __future__ import annotations

from sqlalchemy import Column, LargeBinary, PrimaryKeyConstraint, Table, Text

from app.db.tables.metadata import metadata

installation_secrets = Table(
    "installation_secrets",
    metadata,
    Column("name", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    PrimaryKeyConstraint("name"),
)
