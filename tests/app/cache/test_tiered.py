"""The tiers as one cache, over real stores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.cache.entries import Entry, EntryCodec
from app.cache.figures import CacheFigures
from app.cache.invalidations import Invalidations, Selector, SelectorKind
from app.cache.keys import EntryKey
from app.cache.memory import MemoryTier
from app.cache.postgres import PostgresTier
from app.cache.redis import RedisTier
from app.cache.tier import Tier
from app.cache.tiered import PlacedTier, TieredCache
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.domain.usage import CacheTier
from app.events.relay import Relay
from app.redis.clients import connect_redis
from app.runtime.clock import SystemClock
from app.settings import RedisSettings
from tests.app.cache.cached import a_key, an_entry
from tests.app.cache.conftest import DAY, MAX_BYTES, figures, until

pytestmark = pytest.mark.anyio
HOUR = timedelta(hours=1)


def tiered(tiers: Sequence[Tier], invalidations: Invalidations) -> TieredCache:
    return TieredCache([PlacedTier(tier, HOUR) for tier in tiers], invalidations, SystemClock(), figures(), draw=lambda: 0.5)


@pytest.fixture
def memory() -> MemoryTier:
    return MemoryTier(MAX_BYTES, SystemClock())


@pytest.fixture
def all_tiers(memory: MemoryTier, redis_tier: RedisTier, sessions: Sessions, codec: EntryCodec) -> list[Tier]:
    return [memory, redis_tier, PostgresTier(sessions, codec)]


async def filled(cache: TieredCache, entry: Entry) -> EntryKey:
    key = a_key()
    await cache.put(key, entry)
    await cache.flush()
    return key


async def test_the_fastest_tier_that_has_it_gives_it_and_fills_those_before(
    all_tiers: list[Tier], invalidations: Invalidations
) -> None:
    cache = tiered(all_tiers, invalidations)
    key = await filled(cache, an_entry())
    for tier in all_tiers:
        hit = await cache.get(key)
        await cache.flush()
        assert hit is not None
        assert (hit.tier, hit.entry.body) == (tier.name, b"an answer")
        assert all([await each.get(key) is not None for each in all_tiers])
        for faster in all_tiers[: all_tiers.index(tier) + 1]:
            await faster.remove(key.tenant, [key.name])
    counted = {tier.tier: (tier.hits, tier.misses) for tier in (await cache.stats(key.tenant)).tiers}
    assert [counted[tier.name] for tier in all_tiers] == [(1, 2), (1, 1), (1, 0)]


async def test_a_filled_tier_keeps_it_no_longer_than_it_has_left(
    memory: MemoryTier, redis_tier: RedisTier, invalidations: Invalidations
) -> None:
    cache = tiered([memory, redis_tier], invalidations)
    key = await filled(cache, an_entry(ttl=timedelta(seconds=0.4)))
    await memory.remove(key.tenant, [key.name])
    assert await cache.get(key) is not None
    async with asyncio.timeout(10):
        while await cache.get(key) is not None:  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0.02)
    assert await memory.get(key) is None


async def test_what_is_not_worth_it_stays_out_of_postgres(
    memory: MemoryTier, sessions: Sessions, codec: EntryCodec, invalidations: Invalidations
) -> None:
    postgres = PostgresTier(sessions, codec)
    placed = [PlacedTier(memory, HOUR), PlacedTier(postgres, HOUR, min_cost_usd=Decimal("0.01"))]
    cache = TieredCache(placed, invalidations, SystemClock(), figures())
    cheap = await filled(cache, an_entry(cost_usd=Decimal("0.009")))
    expensive = await filled(cache, an_entry(cost_usd=Decimal("0.01")))
    unknown = await filled(cache, an_entry(cost_usd=None))
    assert [await postgres.get(key) is not None for key in (cheap, expensive, unknown)] == [False, True, True]


async def test_nothing_is_given_before_the_invalidations_are_known(memory: MemoryTier, sessions: Sessions) -> None:
    key = a_key()
    await memory.put(key, an_entry(), 60)
    unknown = Invalidations(sessions, Relay(sessions, SystemClock()), SystemClock(), on_lost=lambda: None)
    assert await tiered([memory], unknown).get(key) is None


@pytest.mark.parametrize("kind", list(SelectorKind))
async def test_an_invalidation_holds_in_every_tier_and_counts_names_once(
    kind: SelectorKind, all_tiers: list[Tier], invalidations: Invalidations
) -> None:
    cache = tiered(all_tiers, invalidations)
    key = await filled(cache, an_entry(tags=("prices",)))
    other = a_key(key.tenant, name="completion/other/00")
    await cache.put(other, an_entry())
    await cache.flush()
    values = {
        SelectorKind.NAME: (key.name,),
        SelectorKind.PATTERN: ("completion/default/*",),
        SelectorKind.TAG: ("prices",),
        SelectorKind.EVERYTHING: ("",),
    }
    selector, count = Selector(kind, values[kind]), 2 if kind is SelectorKind.EVERYTHING else 1
    assert await cache.invalidate("somebody else", selector) == 0
    assert await cache.invalidate(key.tenant, selector, dry_run=True) == count
    assert await cache.get(key) is not None
    assert await cache.invalidate(key.tenant, selector) == count
    assert await cache.get(key) is None
    assert (await cache.get(other) is None) is (kind is SelectorKind.EVERYTHING)
    await cache.flush()
    assert not any([await tier.get(key) is not None for tier in all_tiers])
    assert await cache.invalidate(key.tenant, selector) == 0


async def test_an_answer_whose_call_began_before_an_invalidation_is_never_given_after_it(
    all_tiers: list[Tier], invalidations: Invalidations
) -> None:
    cache = tiered(all_tiers, invalidations)
    key, entry = a_key(), an_entry()
    await cache.invalidate(key.tenant, Selector(SelectorKind.NAME, (key.name,)))
    await cache.put(key, entry)
    await cache.flush()
    assert not any([await tier.get(key) is not None for tier in all_tiers])
    for tier in all_tiers:
        await tier.put(key, entry, 60)
    assert await cache.get(key) is None
    await cache.put(key, an_entry(b"newer", began=timedelta(seconds=1)))
    await cache.flush()
    hit = await cache.get(key)
    assert hit is not None
    assert hit.entry.body == b"newer"


async def test_a_tier_that_is_away_is_a_miss_and_no_failure(
    memory: MemoryTier, codec: EntryCodec, redis_tier: RedisTier, invalidations: Invalidations
) -> None:
    client = connect_redis("redis://127.0.0.1:1/0", RedisSettings(), SystemClock())
    away = RedisTier(CacheTier.SHARED_REDIS, client, codec, SystemClock(), max_seconds=DAY, is_alone=False)
    cache = tiered([away, redis_tier], invalidations)
    key = await filled(cache, an_entry())
    hit = await cache.get(key)
    assert hit is not None
    assert hit.tier is CacheTier.LOCAL_REDIS
    assert await cache.invalidate(key.tenant, Selector(SelectorKind.EVERYTHING)) == 1
    await cache.flush()
    entries = {tier.tier: tier.entries for tier in (await cache.stats(None)).tiers}
    assert entries[CacheTier.SHARED_REDIS] is None
    assert entries[CacheTier.LOCAL_REDIS] is not None
    await client.close()


async def test_the_metrics_show_what_each_tier_holds(
    redis_tier: RedisTier, codec: EntryCodec, memory: MemoryTier, invalidations: Invalidations
) -> None:
    client = connect_redis("redis://127.0.0.1:1/0", RedisSettings(), SystemClock())
    away = RedisTier(CacheTier.SHARED_REDIS, client, codec, SystemClock(), max_seconds=DAY, is_alone=False)
    registry, placed = CollectorRegistry(), [PlacedTier(tier, HOUR) for tier in (memory, away)]
    cache = TieredCache(placed, invalidations, SystemClock(), CacheFigures(SystemClock(), client, registry))
    await memory.put(a_key(), an_entry(), 60)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await away.get(a_key())
    running = asyncio.create_task(cache.run())
    shown = {'greenlang_cache_available{tier="SHARED_REDIS"} 0.0', 'greenlang_cache_entries{tier="MEMORY"} 1.0'}
    await until(lambda: shown <= set(generate_latest(registry).decode().splitlines()))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.close()


async def test_expiry_is_spread_only_downwards(memory: MemoryTier, invalidations: Invalidations) -> None:
    kept: list[float] = []

    class Watched(MemoryTier):
        async def put(self, key: EntryKey, entry: Entry, seconds: float) -> None:
            kept.append(seconds)
            await super().put(key, entry, seconds)

    cache = TieredCache([PlacedTier(Watched(MAX_BYTES, SystemClock()), HOUR)], invalidations, SystemClock(), figures())
    for _ in range(200):
        await cache.put(a_key(), an_entry(ttl=2 * HOUR))
    assert 3600 * 0.9 <= min(kept) < 3600 * 0.95 < max(kept) <= 3600


class TestATierForWhatIsWorthKeeping:
    @pytest.mark.parametrize(
        ("cost_usd", "asked_for", "kept"),
        [
            (Decimal("0.02"), None, True),
            (Decimal("0.001"), None, False),
            (Decimal("0.001"), timedelta(hours=1), False),
            (Decimal("0.001"), timedelta(hours=2), True),
            (None, None, True),
        ],
    )
    async def test_has_what_was_expensive_and_what_the_tiers_above_do_not_hold_as_long(
        self,
        sessions: Sessions,
        codec: EntryCodec,
        invalidations: Invalidations,
        *,
        cost_usd: Decimal | None,
        asked_for: timedelta | None,
        kept: bool,
    ) -> None:
        postgres, key = PostgresTier(sessions, codec), a_key()
        tiers = [PlacedTier(MemoryTier(MAX_BYTES, SystemClock()), HOUR), PlacedTier(postgres, 24 * HOUR, Decimal("0.01"))]
        cache = TieredCache(tiers, invalidations, SystemClock(), figures())
        await cache.put(key, an_entry(cost_usd=cost_usd, ttl=24 * HOUR), asked_for=asked_for)
        await cache.flush()
        assert (await cache.get(key)) is not None
        assert (await postgres.get(key) is not None) is kept
