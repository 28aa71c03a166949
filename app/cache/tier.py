"""What every tier of the cache can do. If a tier is away, its methods raise StoreUnavailable, and no other error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.cache.entries import Entry
from app.cache.keys import EntryKey
from app.domain.usage import CacheTier


@dataclass(frozen=True, slots=True)
class TierSize:
    """The size of a tier. A field is None if the tier cannot say."""

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
        """Returns the entry as it was put, even if it has expired. Raises StoreUnavailable."""
        ...

    async def put(self, key: EntryKey, entry: Entry, seconds: float) -> None:
        """Keeps the entry for at most `seconds`. Raises StoreUnavailable."""
        ...

    async def remove(self, tenant: str, names: Sequence[str]) -> None:
        """Raises StoreUnavailable."""
        ...

    async def tags_by_name(self, tenant: str) -> Mapping[str, Sequence[str]]:
        """Returns the names of all entries of the tenant, each with its tags. Raises StoreUnavailable."""
        ...

    async def size(self) -> TierSize:
        """Returns the size over all tenants. Raises StoreUnavailable."""
        ...
