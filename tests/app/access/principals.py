"""Principals to test with."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from app.access.principal import Principal, Scope


def principal(
    *scopes: Scope,
    tenant: str = "acme",
    agent: str | None = None,
    key: int = 1,
    expires_at: datetime | None = None,
    requests_per_minute: int | None = None,
    max_concurrent: int | None = None,
) -> Principal:
    return Principal(
        key_id=UUID(int=key),
        key_name=f"key {key}",
        tenant=tenant,
        scopes=frozenset(scopes),
        agent=agent,
        expires_at=expires_at,
        requests_per_minute=requests_per_minute,
        max_concurrent=max_concurrent,
    )
