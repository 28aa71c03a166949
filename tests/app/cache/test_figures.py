"""The figures of the cache, over several processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.cache.figures import MAX_AGE_SECONDS, SHARE_SECONDS, CacheFigures, CacheStats
from app.cache.tier import TierSize
from app.domain.usage import CacheTier
from app.redis.clients import RedisClient, connect_redis
from app.runtime.clock import SystemClock
from app.settings import RedisSettings
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio
AVAILABLE = {CacheTier.MEMORY: True}


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[RedisClient]:
    client = connect_redis(valkey_url, RedisSettings(socket_timeout=timedelta(seconds=5)), SystemClock())
    await client.execute(lambda server: server.flushdb())
    yield client
    await client.close()


@asynccontextmanager
async def process(
    redis: RedisClient, clock: ManualClock, registry: CollectorRegistry | None = None
) -> AsyncIterator[CacheFigures]:
    """Has one hit and two misses of the tenant acme, and a miss of globex."""
    figures = CacheFigures(clock, redis, registry or CollectorRegistry())
    figures.looked_up("acme", CacheTier.MEMORY, 0.001, is_hit=True)
    figures.saved("acme", Decimal("0.5"))
    for tenant in ("acme", "acme", "globex"):
        figures.looked_up(tenant, CacheTier.MEMORY, 0.003, is_hit=False)
        figures.missed(tenant)
    running = asyncio.create_task(figures.run())
    yield figures
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def hits(figures: CacheFigures, wanted: int, tenant: str | None = "acme") -> CacheStats:
    """The report, once it has as many hits."""
    async with asyncio.timeout(10):
        while (stats := await figures.report(tenant, AVAILABLE, {})).hits != wanted:  # noqa: ASYNC110 (another party's state)
            await asyncio.sleep(0.01)
    return stats


async def test_are_added_over_the_processes_that_run(redis: RedisClient) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with process(redis, clock) as first, process(redis, clock):
        async with asyncio.timeout(10):
            while clock.sleeping < 2:  # noqa: ASYNC110 (the condition is another party's state)
                await asyncio.sleep(0.01)
        await clock.advance(SHARE_SECONDS)
        stats = await hits(first, 2)
        assert (stats.misses, stats.saved_usd, stats.hit_rate) == (4, Decimal("1.0"), 2 / 6)
        assert (await first.report(None, AVAILABLE, {})).misses == 6
        assert (await first.report("nobody", AVAILABLE, {})).hit_rate is None
    clock.move(MAX_AGE_SECONDS + 1)
    await hits(first, 1)
    left = await redis.execute(lambda server: server.hlen("cache:figures"))
    assert left == 0, "the counts of processes that ended stay"


async def test_of_another_version_are_left_out(redis: RedisClient) -> None:
    await redis.execute(lambda server: server.hset("cache:figures", "other", b"no such counts"))
    async with process(redis, ManualClock(datetime.now(UTC))) as figures:
        await hits(figures, 1)


async def test_are_those_of_this_process_while_redis_is_away() -> None:
    away = connect_redis("redis://127.0.0.1:1/0", RedisSettings(), SystemClock())
    registry = CollectorRegistry()
    async with process(away, ManualClock(datetime.now(UTC)), registry) as figures:
        stats = await figures.report("acme", AVAILABLE, {CacheTier.MEMORY: TierSize(3, 900, 2)})
        memory, postgres = stats.tiers[0], stats.tiers[3]
        assert (memory.available, memory.hits, memory.misses, memory.hit_rate) == (True, 1, 2, 1 / 3)
        assert (memory.entries, memory.bytes, memory.evictions) == (3, 900, 2)
        assert (memory.latency_p50_ms, memory.latency_p95_ms) == (3.0, 3.0)
        assert (postgres.available, postgres.entries, postgres.latency_p50_ms, postgres.hit_rate) == (False, None, None, None)
    shown = generate_latest(registry).decode()
    assert 'greenlang_cache_lookups_total{outcome="miss",tier="MEMORY"} 3.0' in shown
    assert "greenlang_cache_saved_usd_total 0.5" in shown
    assert "acme" not in shown
    await away.close()
