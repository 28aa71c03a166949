"""What every tier of the cache can do. A tier that is away raises StoreUnavailable; nothing else ever comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.cache.entries import Entry
from app.cache.keys import EntryKey
from app.domain.usage import CacheTier


@dataclass(frozen=True, slots=True)
class TierSize:
    """None if the tier cannot say."""

    entries: int | None
    bytes: int | None
    evictions: int


class Tier(Protocol):
    @property
    def name(self) -> CacheTier: ...

    @property
    def available(self) -> bool:
        """False while every request is refused at once."""
        ...

    async def get(self, key: EntryKey) -> Entry | None:
        """As it was put, also if it has expired meanwhile. Raises StoreUnavailable."""
        ...

    async def put(self, key: EntryKey, entry: Entry, seconds: float) -> None:
        """Kept for at most so long. Raises StoreUnavailable."""
        ...

    async def remove(self, tenant: str, names: Sequence[str]) -> None:
        """Raises StoreUnavailable."""
        ...

    async def tags_by_name(self, tenant: str) -> Mapping[str, Sequence[str]]:
        """The names of all entries of the tenant, each with its tags. Raises StoreUnavailable."""
        ...

    async def size(self) -> TierSize:
        """Of all tenants. Raises StoreUnavailable."""
        ...
