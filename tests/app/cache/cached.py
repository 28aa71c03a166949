"""Keys and entries as the tests write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

from app.cache.entries import Entry
from app.cache.keys import EntryKey


def a_key(tenant: str | None = None, name: str | None = None) -> EntryKey:
    """Of a tenant and with a name that no other test has."""
    return EntryKey(tenant or f"tenant-{uuid4()}", name or f"completion/default/{uuid4().hex}")


def an_entry(
    body: bytes = b"an answer",
    *,
    began: timedelta = timedelta(),
    ttl: timedelta = timedelta(hours=1),
    tags: tuple[str, ...] = (),
    cost_usd: Decimal | None = Decimal("0.25"),
) -> Entry:
    """Its call began `began` from now on."""
    now = datetime.now(UTC)
    return Entry(body, now + began, now, now + ttl, tags, cost_usd)
