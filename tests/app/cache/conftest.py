"""A tier of each kind on real stores, and the parts of a cache that several processes would share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from app.cache.entries import EntryCodec
from app.cache.figures import CacheFigures
from app.cache.invalidations import Invalidations
from app.cache.memory import MemoryTier
from app.cache.postgres import PostgresTier
from app.cache.redis import RedisTier
from app.cache.tier import Tier
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.usage import CacheTier
from app.events.relay import Relay
from app.redis.clients import connect_redis
from app.runtime.clock import SystemClock
from app.secrets.sealing import Sealer
from app.settings import DatabaseSettings, RedisSettings

MAX_BYTES = 1_000_000
DAY = timedelta(days=1).total_seconds()


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    engines = build_engines(database_url, [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


@pytest.fixture
def codec() -> EntryCodec:
    return EntryCodec(Sealer([b"k" * 32]))


@pytest.fixture
async def redis_tier(valkey_url: str, codec: EntryCodec) -> AsyncIterator[RedisTier]:
    client = connect_redis(valkey_url, RedisSettings(socket_timeout=timedelta(seconds=5)), SystemClock())
    yield RedisTier(CacheTier.LOCAL_REDIS, client, codec, SystemClock(), max_seconds=DAY, is_alone=True)
    await client.close()


@pytest.fixture
async def invalidations(sessions: Sessions) -> AsyncIterator[Invalidations]:
    relay = Relay(sessions, SystemClock())
    made = Invalidations(sessions, relay, SystemClock(), on_lost=lambda: None)
    tasks = [asyncio.create_task(each.run()) for each in (relay, made)]
    await until(lambda: made.is_known)
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(params=["memory", "redis", "postgres"])
def tier(request: pytest.FixtureRequest, redis_tier: RedisTier, sessions: Sessions, codec: EntryCodec) -> Tier:
    tiers: dict[str, Tier] = {
        "memory": MemoryTier(MAX_BYTES, SystemClock()),
        "redis": redis_tier,
        "postgres": PostgresTier(sessions, codec),
    }
    return tiers[request.param]


async def until(condition: object, seconds: float = 10) -> None:
    """Waits for a callable to become true."""
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0.01)


def figures() -> CacheFigures:
    """Of one process: Redis is away."""
    return CacheFigures(
        SystemClock(), connect_redis("redis://127.0.0.1:1/0", RedisSettings(), SystemClock()), CollectorRegistry()
    )
