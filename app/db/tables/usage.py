"""Usage records, one per attempt, partitioned by month; and their sums by 15 minutes, hour and day of UTC, of all records and of
each label.

`at` is the admission of the call, in database time. It decides the budgets' period, so it also decides the roll-ups' period.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from app.db.tables.metadata import metadata


def _sums() -> list[Column[Any]]:
    """Any: whole numbers and decimals."""
    return [
        Column("requests", BigInteger, nullable=False),
        Column("failures", BigInteger, nullable=False),
        Column("cache_hits", BigInteger, nullable=False),
        Column("unpriced_requests", BigInteger, nullable=False),
        Column("input_tokens", BigInteger, nullable=False),
        Column("output_tokens", BigInteger, nullable=False),
        Column("cached_input_tokens", BigInteger, nullable=False),
        Column("reasoning_tokens", BigInteger, nullable=False),
        Column("cost_usd", Numeric(30, 12), nullable=False),
        Column("saved_usd", Numeric(30, 12), nullable=False),
        Column("unconfirmed_usd", Numeric(30, 12), nullable=False),
    ]


usage_records = Table(
    "usage_records",
    metadata,
    Column("key", Uuid, nullable=False),
    Column("at", TIMESTAMP(timezone=True), nullable=False),
    Column("completion", Uuid),
    Column("operation", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("agent", Text),
    Column("labels", JSONB, nullable=False),
    Column("key_name", Text),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("provider_request_id", Text),
    Column("uncached_input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("cache_write_5m_tokens", BigInteger, nullable=False),
    Column("cache_write_1h_tokens", BigInteger, nullable=False),
    Column("visible_output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_usd", Numeric(30, 12)),
    Column("saved_usd", Numeric(30, 12)),
    Column("price_input_usd", Numeric),
    Column("price_output_usd", Numeric),
    Column("price_cache_read_usd", Numeric),
    Column("price_cache_write_usd", Numeric),
    Column("price_source", Text),
    Column("cache_tier", Text),
    Column("latency_ms", Double, nullable=False),
    Column("confirmed", Boolean, nullable=False),
    PrimaryKeyConstraint("key", "at"),
    postgresql_partition_by="RANGE (at)",
)
Index("ix_usage_records_tenant", usage_records.c.tenant, usage_records.c.at, usage_records.c.key)
Index("ix_usage_records_at", usage_records.c.at, usage_records.c.key)

usage_rollups = Table(
    "usage_rollups",
    metadata,
    Column("grain", SmallInteger, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("bucket", TIMESTAMP(timezone=True), nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("operation", Text, nullable=False),
    *_sums(),
    PrimaryKeyConstraint("grain", "tenant", "bucket", "provider", "model", "agent", "operation"),
)
Index("ix_usage_rollups_bucket", usage_rollups.c.grain, usage_rollups.c.bucket)

label_rollups = Table(
    "label_rollups",
    metadata,
    Column("grain", SmallInteger, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("label_key", Text, nullable=False),
    Column("bucket", TIMESTAMP(timezone=True), nullable=False),
    Column("place", Uuid, nullable=False),
    Column("label_value", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("operation", Text, nullable=False),
    *_sums(),
    PrimaryKeyConstraint("grain", "tenant", "label_key", "bucket", "place"),
)
Index("ix_label_rollups_bucket", label_rollups.c.grain, label_rollups.c.bucket)
