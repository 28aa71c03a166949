"""API keys. `hint` is the public part of a key, by which its row is found. Only the SHA-256 of the whole secret is stored.

Every change increments `version` and sets `changed_at` to the database's time. Processes read the changed rows again.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Index, Integer, LargeBinary, PrimaryKeyConstraint, Table, Text, Uuid, func
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP

from app.db.tables.metadata import metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("hint", Text, nullable=False, unique=True),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("agent", Text),
    Column("expires_at", TIMESTAMP(timezone=True)),
    Column("requests_per_minute", Integer),
    Column("max_concurrent", Integer),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("changed_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("revoked_at", TIMESTAMP(timezone=True)),
    Column("calls_cancelled_at", TIMESTAMP(timezone=True)),
    Column("version", Integer, nullable=False, server_default="1"),
    PrimaryKeyConstraint("id"),
    CheckConstraint("octet_length(secret_hash) = 32", name="secret_hash_is_sha256"),
    CheckConstraint("requests_per_minute > 0", name="requests_per_minute_positive"),
    CheckConstraint("max_concurrent > 0", name="max_concurrent_positive"),
)
Index(
    "uq_api_keys_live_tenant_name",
    api_keys.c.tenant,
    api_keys.c.name,
    unique=True,
    postgresql_where=api_keys.c.revoked_at.is_(None),
)
Index("ix_api_keys_changed_at", api_keys.c.changed_at, postgresql_where=api_keys.c.version > 1)
