"""How much a process takes on at once, in calls or in bytes, and how keys and tenants share it.

Requests over a limit are refused before anything is done. Shares are dynamic thresholds, as network switches use them for their
buffers. A tenant may hold up to a fixed multiple of what is still free, and a key up to a fixed multiple of what its tenant may
still take. A key that is alone gets its whole share. However many others hold places, a part of the rest stays free for the
next. A share is rounded up, but the last place is for a tenant that holds nothing; with fewer than four places there is no such
place. Nothing that runs is ever taken away. The last places are for administrators' keys, if their part is at least one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from math import floor

from app.domain.errors import Overloaded

_ROUNDING = 1e-9
_FEWEST_WITH_ONE_SPARE = 4
"""With this many places, a key that is alone still has three quarters without the last place."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds places: a key and its tenant. The keys of administrators form one group, like a tenant."""

    key: Hashable
    tenant: str
    is_admin: bool = False

    @property
    def group(self) -> str | None:
        return None if self.is_admin else self.tenant


NO_HOLDER = Holder("", "")


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of 1: what a key can hold, and what a tenant can hold with all its keys, while no other holds anything; and what
    only administrators can use. `per_key` is at most `per_tenant`."""

    per_key: float = 0.8
    per_tenant: float = 0.9
    for_admin: float = 0.01

    def at_least(self, part: float) -> Shares:
        return Shares(max(self.per_key, min(1.0, part)), max(self.per_tenant, min(1.0, part)), self.for_admin)


@dataclass(slots=True)
class _Group:
    """What the keys of one tenant hold."""

    total: int = 0
    keys: Counter[Hashable] = field(default_factory=Counter)


class Capacity:
    """Counts what is in flight, by key. Raises Overloaded if a request exceeds the limit or a share of it."""

    def __init__(self, limit: int, retry_after: timedelta, shares: Shares | None = None, *, largest: int = 1) -> None:
        """`largest` is the most that one call or body may need. It always fits while nothing else is held."""
        shares = shares or Shares()
        self._limit = limit
        self._rounding = _ROUNDING * limit
        self._open_to_all = limit - min(floor(limit * shares.for_admin + self._rounding), max(0, limit - largest))
        self._shares = shares.at_least(largest / self._open_to_all)
        self._spare = 1 if self._shares.per_tenant < 1 and self._open_to_all >= _FEWEST_WITH_ONE_SPARE else 0
        self._retry_after_ms = max(1, round(retry_after.total_seconds() * 1000))
        self._groups: dict[str | None, _Group] = {}
        self.in_flight = 0
        self.refused = 0

    def of(self, holder: Holder) -> Share:
        return Share(self, holder)

    def check(self, holder: Holder, amount: int) -> None:
        """Raises Overloaded if the amount could not be taken now."""
        if amount > 0 and not self._may_take(holder, amount):
            self.refused += 1
            raise Overloaded(self._retry_after_ms)

    def take(self, holder: Holder, amount: int) -> None:
        self.check(holder, amount)
        self._add(holder, amount)

    def give_back(self, holder: Holder, amount: int) -> None:
        self._add(holder, -amount)

    def _add(self, holder: Holder, amount: int) -> None:
        group = self._groups.setdefault(holder.group, _Group())
        self.in_flight += amount
        group.total += amount
        group.keys[holder.key] += amount
        if not group.keys[holder.key]:
            del group.keys[holder.key]
        if not group.keys:
            del self._groups[holder.group]

    def _may_take(self, holder: Holder, amount: int) -> bool:
        free = (self._limit if holder.is_admin else self._open_to_all) - self.in_flight - amount
        if free < 0:
            return False
        group = self._groups.get(holder.group)
        held_by_tenant, held_by_key = (0, 0) if group is None else (group.total, group.keys[holder.key])
        if not held_by_tenant or (holder.is_admin and not held_by_key):
            return True
        part, of_tenant = self._shares.per_key, self._shares.per_tenant
        room_of_tenant = of_tenant * free - (1 - of_tenant) * (held_by_tenant + amount)
        room_of_key = part * room_of_tenant / of_tenant - (1 - part / of_tenant) * (held_by_key + amount)
        return free >= self._spare and min(room_of_tenant, room_of_key) > self._rounding - 1


@dataclass(frozen=True, slots=True)
class Share:
    """What one key holds of a Capacity."""

    capacity: Capacity
    holder: Holder

    def check_one(self) -> None:
        """Raises Overloaded if no place is left."""
        self.capacity.check(self.holder, 1)

    def take(self, amount: int) -> None:
        """Raises Overloaded. A negative amount is given back."""
        self.capacity.take(self.holder, amount)

    def give_back(self, amount: int) -> None:
        self.capacity.give_back(self.holder, amount)

    @contextmanager
    def held(self, amount: int) -> Iterator[None]:
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)

    def one(self) -> AbstractContextManager[None]:
        return self.held(1)
