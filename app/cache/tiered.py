"""The tiers as one cache. The fastest tier with the entry returns it and fills the faster ones.

Invariant: nothing is returned or written that is covered by an invalidation that this process knows. A tier that is away counts
as a miss. It never makes a caller fail, or wait longer than its client waits for the server.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from app.cache.entries import Entry
from app.cache.figures import CacheFigures, CacheStats
from app.cache.invalidations import Invalidations, Selector
from app.cache.keys import EntryKey
from app.cache.tier import Tier, TierSize
from app.domain.errors import StoreUnavailable
from app.domain.usage import CacheTier
from app.runtime.clock import Clock

MAX_SPREAD: Final = 0.1
"""An entry may expire earlier by up to this part of its time, so that not all expire at once."""
MAX_WRITES: Final = 1000
"""The number of writes to slower tiers that may wait at once. Further writes are dropped."""
MEASURE_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlacedTier:
    """`ttl` limits how long an entry stays in this tier. An answer is written to it if it cost at least `min_cost_usd`, or if its
    caller asked to keep it for longer than every tier above does."""

    tier: Tier
    ttl: timedelta
    min_cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Hit:
    entry: Entry
    tier: CacheTier
    age: timedelta


class TieredCache:
    def __init__(
        self,
        tiers: Sequence[PlacedTier],
        invalidations: Invalidations,
        clock: Clock,
        figures: CacheFigures,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`tiers` are in order from the fastest to the slowest. `draw` returns numbers from 0 up to 1."""
        self._tiers = tiers
        self._invalidations = invalidations
        self._clock = clock
        self._figures = figures
        self._draw = draw
        self._writes: dict[asyncio.Task[None], EntryKey | None] = {}
        ttls = [placed.ttl for placed in tiers]
        self._kept_above = [max(ttls[:place], default=timedelta(0)) for place in range(len(ttls))]

    @property
    def is_ready(self) -> bool:
        """False while nothing is returned, because this process does not know all invalidations."""
        return self._invalidations.is_known

    async def get(self, key: EntryKey, *, is_repeat: bool = False) -> Hit | None:
        """A miss of a look-up that repeats another one is not counted."""
        if not self._invalidations.is_known:
            return None
        for place, placed in enumerate(self._tiers):
            entry = await self._look_up(placed.tier, key, is_repeat=is_repeat)
            if entry is not None:
                self._fill([above for above in self._tiers[:place] if _is_worth(above, entry)], key, entry)
                return self._hit(key, entry, placed.tier.name)
        if not is_repeat:
            self._figures.missed(key.tenant)
        return None

    async def get_from_memory(self, key: EntryKey) -> Hit | None:
        """Looks only in the memory of this process. A miss is not counted: it is followed by a look-up of all tiers."""
        if not self._invalidations.is_known or not self._has_memory:
            return None
        entry = await self._look_up(self._tiers[0].tier, key, is_repeat=True)
        return None if entry is None else self._hit(key, entry, CacheTier.MEMORY)

    def share(self, key: EntryKey, entry: Entry) -> Hit | None:
        """Counts and returns an answer that another call of this process has just made for this caller too. None if it has been
        invalidated meanwhile."""
        if self._invalidations.covers(key, entry):
            return None
        self._figures.looked_up(key.tenant, CacheTier.MEMORY, 0.0, is_hit=True)
        return self._hit(key, entry, CacheTier.MEMORY)

    async def put(self, key: EntryKey, entry: Entry, *, asked_for: timedelta | None = None) -> None:
        """Returns when the first tier has the entry. The others get it soon. `asked_for` is how long its caller asked to keep
        it."""
        kept = asked_for or timedelta(0)
        placed = [
            tier for tier, above in zip(self._tiers, self._kept_above, strict=True) if _is_worth(tier, entry) or kept > above
        ]
        if self._has_memory and placed and placed[0] is self._tiers[0]:
            await self._write(placed[0], key, entry)
            placed = placed[1:]
        self._fill(placed, key, entry)

    async def invalidate(self, tenant: str, selector: Selector, *, dry_run: bool = False) -> int:
        """Returns how many distinct names of the tenant are selected, in the tiers that this process reaches. From then on this
        process returns nothing older. Raises StoreUnavailable if PostgreSQL is away; then nothing has changed."""
        is_selected = selector.matcher()
        found: dict[CacheTier, list[str]] = {}
        for placed in self._tiers:
            try:
                names = await placed.tier.tags_by_name(tenant)
            except StoreUnavailable:
                continue
            found[placed.tier.name] = [name for name, tags in names.items() if is_selected(name, tags)]
        if not dry_run:
            await self._invalidations.add(tenant, selector)
            for placed in self._tiers:
                names_here = found.get(placed.tier.name, [])
                if names_here:
                    self._start(self._remove(placed.tier, tenant, names_here))
        return len(set().union(*found.values()))

    async def stats(self, tenant: str | None) -> CacheStats:
        """Returns hits and misses of one tenant, or (None) of all, added over the processes."""
        sizes = await self._measure()
        availability = {placed.tier.name: placed.tier.available for placed in self._tiers}
        return await self._figures.report(tenant, availability, sizes)

    async def run(self) -> None:
        """Measures the tiers for the metrics until it is cancelled."""
        while True:
            await self._measure()
            await self._clock.sleep(MEASURE_SECONDS)

    async def _measure(self) -> Mapping[CacheTier, TierSize | None]:
        sizes: dict[CacheTier, TierSize | None] = {}
        for tier in (placed.tier for placed in self._tiers):
            try:
                sizes[tier.name] = await tier.size()
            except StoreUnavailable:
                sizes[tier.name] = None
            self._figures.measured(tier.name, sizes[tier.name], available=tier.available)
        return sizes

    async def written(self, key: EntryKey) -> None:
        """Returns when every write of the entry that has begun has ended."""
        writes = [task for task, of in self._writes.items() if of == key]
        if writes:
            await asyncio.wait(writes)

    async def flush(self) -> None:
        """Returns when every write that has begun has ended."""
        while self._writes:
            await asyncio.wait(self._writes)

    @property
    def _has_memory(self) -> bool:
        return bool(self._tiers) and self._tiers[0].tier.name is CacheTier.MEMORY

    def _hit(self, key: EntryKey, entry: Entry, tier: CacheTier) -> Hit:
        if entry.cost_usd is not None:
            self._figures.saved(key.tenant, entry.cost_usd)
        return Hit(entry, tier, max(self._clock.now() - entry.stored_at, timedelta(0)))

    async def _look_up(self, tier: Tier, key: EntryKey, *, is_repeat: bool) -> Entry | None:
        """None also for one that may not be given any more, or while the tier is away."""
        began = self._clock.monotonic()
        try:
            entry = await tier.get(key)
        except StoreUnavailable:
            return None
        if entry is not None and (entry.expires_at <= self._clock.now() or self._invalidations.covers(key, entry)):
            entry = None
        if entry is not None or not is_repeat:
            self._figures.looked_up(key.tenant, tier.name, self._clock.monotonic() - began, is_hit=entry is not None)
        return entry

    def _fill(self, tiers: Sequence[PlacedTier], key: EntryKey, entry: Entry) -> None:
        for placed in tiers:
            if len(self._writes) < MAX_WRITES:
                self._start(self._write(placed, key, entry), key)

    async def _write(self, placed: PlacedTier, key: EntryKey, entry: Entry) -> None:
        left = (entry.expires_at - self._clock.now()).total_seconds()
        seconds = min(placed.ttl.total_seconds(), left) * (1 - MAX_SPREAD * self._draw())
        if seconds <= 0 or self._invalidations.covers(key, entry):
            return
        with suppress(StoreUnavailable):
            await placed.tier.put(key, entry, seconds)

    async def _remove(self, tier: Tier, tenant: str, names: Sequence[str]) -> None:
        with suppress(StoreUnavailable):
            await tier.remove(tenant, names)

    def _start(self, work: Coroutine[Any, Any, None], key: EntryKey | None = None) -> None:
        task = asyncio.create_task(work)
        self._writes[task] = key
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._writes[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a write to the cache failed", exc_info=error)


def _is_worth(placed: PlacedTier, entry: Entry) -> bool:
    return entry.cost_usd is None or entry.cost_usd >= placed.min_cost_usd
