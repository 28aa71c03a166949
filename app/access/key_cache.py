"""The keys that one process remembers, so that a call costs no SQL.

An entry is a copy of its row and is never written back. It lives for the TTL and no longer, even if it is used often. An older
version of a row never replaces a change that was already seen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from app.access.principal import Principal
from app.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class KeyEntry:
    hint: str
    secret_hash: bytes
    version: int
    revoked: bool
    calls_cancelled: bool
    principal: Principal


@dataclass(frozen=True, slots=True)
class KeyCacheLimits:
    """`refused` are hints with a wrong secret, or hints without a row. They prevent a database read at every try of a caller
    that guesses."""

    ttl: timedelta = timedelta(seconds=30)
    entries: int = 20_000
    refused_ttl: timedelta = timedelta(seconds=5)
    refused: int = 1_000


class KeyCache:
    def __init__(self, clock: Clock, limits: KeyCacheLimits) -> None:
        self._clock = clock
        self._limits = limits
        self._entries: OrderedDict[str, tuple[KeyEntry, float]] = OrderedDict()
        self._refused: OrderedDict[str, tuple[bool, float]] = OrderedDict()
        """For each hint, whether there was a row, and until when this is remembered."""
        self._changed: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._entries) + len(self._refused)

    def get(self, hint: str) -> KeyEntry | None:
        found = self._entries.get(hint)
        if found is None:
            return None
        entry, until = found
        if self._clock.monotonic() >= until:
            del self._entries[hint]
            return None
        self._entries.move_to_end(hint)
        return entry

    def was_refused(self, hint: str, entry: KeyEntry | None) -> bool:
        """Returns True if the row was read recently, and `entry` still is what was found (None if nothing was found)."""
        known, until = self._refused.get(hint, (False, 0.0))
        return self._clock.monotonic() < until and known == (entry is not None)

    def remember(self, entry: KeyEntry) -> bool:
        """Returns False if a newer version is known: the entry was read before a change that was already seen."""
        if entry.version < self._changed.get(entry.hint, 0):
            return False
        self._entries[entry.hint] = (entry, self._clock.monotonic() + self._limits.ttl.total_seconds())
        self._entries.move_to_end(entry.hint)
        while len(self._entries) > self._limits.entries:
            self._entries.popitem(last=False)
        return True

    def remember_refused(self, hint: str, *, known: bool) -> None:
        self._refused[hint] = known, self._clock.monotonic() + self._limits.refused_ttl.total_seconds()
        self._refused.move_to_end(hint)
        while len(self._refused) > self._limits.refused:
            self._refused.popitem(last=False)

    def forget(self, hint: str) -> None:
        self._entries.pop(hint, None)
        self._refused.pop(hint, None)

    def take_changes(self, recent: Sequence[KeyEntry]) -> tuple[KeyEntry, ...]:
        """`recent` are all rows that changed recently. Returns those whose version was not seen before."""
        before, self._changed = self._changed, {entry.hint: entry.version for entry in recent}
        for entry in recent:
            cached = self._entries.get(entry.hint)
            if cached is None or cached[0].version < entry.version:
                self.forget(entry.hint)
        return tuple(entry for entry in recent if entry.version > before.get(entry.hint, 0))
