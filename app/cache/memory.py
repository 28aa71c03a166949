"""The tier in this process: the most recently used entries, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.cache.entries import Entry
from app.cache.keys import EntryKey
from app.cache.tier import TierSize
from app.domain.usage import CacheTier
from app.runtime.clock import Clock

_ENTRY_BYTES = 600
"""The memory of an entry apart from its texts: objects, and its places in the dictionaries."""


@dataclass(frozen=True, slots=True)
class _Kept:
    entry: Entry
    until: float
    size: int


class MemoryTier:
    name = CacheTier.MEMORY
    available = True

    def __init__(self, max_bytes: int, clock: Clock) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[EntryKey, _Kept] = OrderedDict()
        self._names: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._bytes = 0
        self._evictions = 0

    async def get(self, key: EntryKey) -> Entry | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= self._clock.monotonic():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.entry

    async def put(self, key: EntryKey, entry: Entry, seconds: float) -> None:
        """An entry that is larger than the whole tier is not kept."""
        self._drop(key)
        size = _ENTRY_BYTES + len(entry.body) + 2 * len(key.name) + len(key.tenant) + sum(map(len, entry.tags))
        if size > self._max_bytes:
            return
        self._kept[key] = _Kept(entry, self._clock.monotonic() + seconds, size)
        self._names[key.tenant][key.name] = None
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))
            self._evictions += 1

    async def remove(self, tenant: str, names: Sequence[str]) -> None:
        for name in names:
            self._drop(EntryKey(tenant, name))

    async def tags_by_name(self, tenant: str) -> Mapping[str, Sequence[str]]:
        now = self._clock.monotonic()
        kept = {name: self._kept[EntryKey(tenant, name)] for name in self._names.get(tenant, ())}
        return {name: each.entry.tags for name, each in kept.items() if each.until > now}

    async def size(self) -> TierSize:
        return TierSize(len(self._kept), self._bytes, self._evictions)

    def clear(self) -> None:
        self._kept.clear()
        self._names.clear()
        self._bytes = 0

    def _drop(self, key: EntryKey) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        self._bytes -= kept.size
        names = self._names[key.tenant]
        del names[key.name]
        if not names:
            del self._names[key.tenant]
