"""The figures of the cache: hits, misses, savings and times, by tenant and tier.

Each process counts for itself and shares its counts through the coordination Redis. A report adds those of all running
processes. While Redis is away, it covers only this process.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, cast
from uuid import uuid4

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.cache.tier import TierSize
from app.domain.errors import StoreUnavailable
from app.domain.money import ZERO
from app.domain.usage import CacheTier
from app.redis.clients import RedisClient, Server
from app.runtime.clock import Clock

SHARE_SECONDS: Final = 2.0
MAX_AGE_SECONDS: Final = 15.0
"""Older counts belong to a process that has ended."""
MAX_TENANTS: Final = 10_000
_LATENCIES: Final = 500
_PLACE: Final = "cache:figures"
_BUCKETS: Final = (0.00001, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5)
_OUTCOMES: Final = {True: "hit", False: "miss"}
_log = logging.getLogger(__name__)


class TierCounts(msgspec.Struct):
    hits: int = 0
    misses: int = 0


class TenantCounts(msgspec.Struct):
    """`misses` are look-ups that no tier could answer."""

    misses: int = 0
    saved_usd: Decimal = ZERO
    tiers: dict[CacheTier, TierCounts] = {}

    def add(self, other: TenantCounts) -> None:
        self.misses += other.misses
        self.saved_usd += other.saved_usd
        for tier, counts in other.tiers.items():
            mine = self.tiers.setdefault(tier, TierCounts())
            mine.hits += counts.hits
            mine.misses += counts.misses


class _Shared(msgspec.Struct):
    at: float
    tenants: dict[str, TenantCounts]


@dataclass(frozen=True, slots=True)
class CacheTierStats:
    """`entries` and `bytes` are those of all tenants. None if the tier cannot say, or if only one tenant asks."""

    tier: CacheTier
    available: bool
    hits: int
    misses: int
    entries: int | None
    bytes: int | None
    evictions: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None

    @property
    def hit_rate(self) -> float | None:
        return _rate(self.hits, self.misses)


@dataclass(frozen=True, slots=True)
class CacheStats:
    """`hits` is the sum of the tiers' hits."""

    misses: int
    saved_usd: Decimal
    tiers: tuple[CacheTierStats, ...]

    @property
    def hits(self) -> int:
        return sum(tier.hits for tier in self.tiers)

    @property
    def hit_rate(self) -> float | None:
        return _rate(self.hits, self.misses)


class CacheFigures:
    def __init__(self, clock: Clock, redis: RedisClient, registry: CollectorRegistry) -> None:
        """`registry` is what /metrics renders. It has no tenants."""
        self._clock = clock
        self._redis = redis
        self._name = uuid4().hex
        self._tenants: dict[str, TenantCounts] = {}
        self._latencies = {tier: deque[float](maxlen=_LATENCIES) for tier in CacheTier}
        lookups = Counter(
            "greenlang_cache_lookups", "Look-ups of the cache, by tier and outcome.", ("tier", "outcome"), registry=registry
        )
        seconds = Histogram(
            "greenlang_cache_lookup_seconds", "How long a tier took to answer.", ("tier",), buckets=_BUCKETS, registry=registry
        )
        self._lookups = {
            (tier, is_hit): lookups.labels(tier.value, _OUTCOMES[is_hit]) for tier in CacheTier for is_hit in _OUTCOMES
        }
        self._seconds = {tier: seconds.labels(tier.value) for tier in CacheTier}
        self._available = Gauge("greenlang_cache_available", "Whether a tier of the cache answers.", ("tier",), registry=registry)
        self._entries = Gauge("greenlang_cache_entries", "Entries of a tier.", ("tier",), registry=registry)
        self._bytes = Gauge("greenlang_cache_bytes", "Size of a tier's entries.", ("tier",), registry=registry)
        self._evictions = Gauge(
            "greenlang_cache_evictions", "Entries that a tier has removed to make room.", ("tier",), registry=registry
        )
        self._saved = Counter(
            "greenlang_cache_saved_usd", "US dollars that answers from the cache had cost once.", registry=registry
        )

    def looked_up(self, tenant: str, tier: CacheTier, seconds: float, *, is_hit: bool) -> None:
        """Records one answer of a tier."""
        tiers = self._of(tenant).tiers
        counts = tiers.get(tier) or tiers.setdefault(tier, TierCounts())
        if is_hit:
            counts.hits += 1
        else:
            counts.misses += 1
        self._latencies[tier].append(seconds)
        self._lookups[tier, is_hit].inc()
        self._seconds[tier].observe(seconds)

    def missed(self, tenant: str) -> None:
        self._of(tenant).misses += 1

    def saved(self, tenant: str, usd: Decimal) -> None:
        self._of(tenant).saved_usd += usd
        self._saved.inc(float(usd))

    def measured(self, tier: CacheTier, size: TierSize | None, *, available: bool) -> None:
        """Shows the last known size if the tier is away."""
        self._available.labels(tier.value).set(available)
        if size is None:
            return
        self._evictions.labels(tier.value).set(size.evictions)
        if size.entries is not None:
            self._entries.labels(tier.value).set(size.entries)
        if size.bytes is not None:
            self._bytes.labels(tier.value).set(size.bytes)

    async def report(
        self, tenant: str | None, availability: Mapping[CacheTier, bool], sizes: Mapping[CacheTier, TierSize | None]
    ) -> CacheStats:
        """Returns the figures of one tenant, or (None) of all."""
        total = TenantCounts(tiers={})
        for counts in await self._of_all_processes():
            for each in counts.values() if tenant is None else filter(None, [counts.get(tenant)]):
                total.add(each)
        return CacheStats(
            misses=total.misses,
            saved_usd=total.saved_usd,
            tiers=tuple(self._tier(tier, total, sizes.get(tier), available=availability.get(tier, False)) for tier in CacheTier),
        )

    async def run(self) -> None:
        """Shares this process's counts until it is cancelled. Before that, it deletes those of processes that have ended."""
        await self._of_all_processes()
        while True:
            await self._clock.sleep(SHARE_SECONDS)
            if self._tenants:
                await self._share()

    async def _share(self) -> None:
        shared = msgspec.msgpack.encode(_Shared(self._clock.now().timestamp(), self._tenants))

        async def act(server: Server) -> None:
            async with server.pipeline(transaction=False) as pipeline:
                pipeline.hset(_PLACE, self._name, shared)
                pipeline.pexpire(_PLACE, int(MAX_AGE_SECONDS * 1000))
                await pipeline.execute()

        try:
            await self._redis.execute(act)
        except StoreUnavailable:
            _log.debug("the cache's figures are not shared: Redis does not answer")

    async def _of_all_processes(self) -> list[Mapping[str, TenantCounts]]:
        async def act(server: Server) -> Mapping[bytes, bytes]:
            return cast("Mapping[bytes, bytes]", await server.hgetall(_PLACE))

        found: list[Mapping[str, TenantCounts]] = [self._tenants]
        oldest = self._clock.now().timestamp() - MAX_AGE_SECONDS
        try:
            shared = await self._redis.execute(act)
        except StoreUnavailable:
            return found
        ended: list[bytes] = []
        for name, value in shared.items():
            counts = _read_shared(value)
            if counts is None or counts.at < oldest:
                ended.append(name)
            elif name.decode() != self._name:
                found.append(counts.tenants)
        if ended:
            await self._delete(ended)
        return found

    async def _delete(self, names: Sequence[bytes]) -> None:
        async def act(server: Server) -> None:
            await server.hdel(_PLACE, *names)

        with suppress(StoreUnavailable):
            await self._redis.execute(act)

    def _tier(self, tier: CacheTier, total: TenantCounts, size: TierSize | None, *, available: bool) -> CacheTierStats:
        counts, times = total.tiers.get(tier, TierCounts()), sorted(self._latencies[tier])
        return CacheTierStats(
            tier=tier,
            available=available,
            hits=counts.hits,
            misses=counts.misses,
            entries=None if size is None else size.entries,
            bytes=None if size is None else size.bytes,
            evictions=0 if size is None else size.evictions,
            latency_p50_ms=_quantile_ms(times, 0.5),
            latency_p95_ms=_quantile_ms(times, 0.95),
        )

    def _of(self, tenant: str) -> TenantCounts:
        counts = self._tenants.get(tenant)
        if counts is None:
            if len(self._tenants) >= MAX_TENANTS:
                del self._tenants[next(iter(self._tenants))]
            counts = self._tenants[tenant] = TenantCounts(tiers={})
        return counts


def _read_shared(value: bytes) -> _Shared | None:
    """None for counts that a process of another version has written."""
    try:
        return msgspec.msgpack.decode(value, type=_Shared)
    except msgspec.DecodeError:
        return None


def _rate(hits: int, misses: int) -> float | None:
    return hits / (hits + misses) if hits + misses else None


def _quantile_ms(times: list[float], part: float) -> float | None:
    return times[min(len(times) - 1, int(part * len(times)))] * 1000 if times else None
