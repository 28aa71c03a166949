"""Row 2 of `benchmarks.cache`: a get of 2 kB from each tier, to what the tier is made of.

Memory and the Redis tiers are compared with a get of redis-py for the same bytes, PostgreSQL with the same statement through
asyncpg. A get of a tier goes through the whole cache: the look-up, the invalidations, the counts, the check and the decoding.
The four take turns in one run, so that what disturbs one disturbs all.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from app.cache.entries import Entry, EntryCodec
from app.cache.figures import CacheFigures
from app.cache.invalidations import Invalidations
from app.cache.keys import EntryKey
from app.cache.memory import MemoryTier
from app.cache.postgres import PostgresTier
from app.cache.redis import RedisTier
from app.cache.tier import Tier
from app.cache.tiered import PlacedTier, TieredCache
from app.db.engines import build_engines
from app.db.migrate import migrate
from app.db.sessions import Sessions
from app.domain.usage import CacheTier
from app.embedded.stores import PrivateStores
from app.events.relay import Relay
from app.redis.clients import RedisClient, connect_redis
from app.runtime.clock import SystemClock
from app.runtime.tasks import end_tasks
from app.secrets.sealing import Sealer
from app.settings import DatabaseSettings, RedisSettings

BYTES = 2048
GETS = 400
ROUNDS = 10
KEY = EntryKey("acme", "completion/default/0123456789abcdef0123456789abcdef")
HOUR = timedelta(hours=1)
RAW = "select value from cache_entries where tenant = $1 and name = $2 and expires_at > clock_timestamp()"

Get = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Ratios:
    memory: float
    redis: float
    postgres: float


def an_entry() -> Entry:
    """Bytes that do not become smaller when they are compressed."""
    now = datetime.now(UTC)
    return Entry(os.urandom(BYTES), now, now, now + HOUR, ("news",), Decimal("0.02"))


@asynccontextmanager
async def known_invalidations(sessions: Sessions, relay: Relay) -> AsyncIterator[Invalidations]:
    invalidations = Invalidations(sessions, relay, SystemClock(), on_lost=lambda: None)
    tasks = [asyncio.create_task(each.run()) for each in (relay, invalidations)]
    while not invalidations.is_known:  # noqa: ASYNC110 (it is read from the database)
        await asyncio.sleep(0.01)
    yield invalidations
    await end_tasks(tasks)


@asynccontextmanager
async def gets(stores: PrivateStores) -> AsyncIterator[dict[str, Get]]:
    """What is compared, by name."""
    clock, codec, entry = SystemClock(), EntryCodec(Sealer([os.urandom(32)])), an_entry()
    async with AsyncExitStack() as stack:
        engines = build_engines(stores.owner.reveal(), [], DatabaseSettings())
        stack.push_async_callback(engines.close)
        sessions = Sessions(engines)
        invalidations = await stack.enter_async_context(known_invalidations(sessions, Relay(sessions, clock)))
        client: RedisClient = connect_redis(stores.redis.reveal(), RedisSettings(), clock)
        stack.push_async_callback(client.close)
        raw_redis: Redis = Redis.from_url(stores.redis.reveal())
        stack.push_async_callback(raw_redis.aclose)
        raw_postgres = await asyncpg.connect(stores.owner.reveal().replace("+asyncpg", ""))
        stack.push_async_callback(raw_postgres.close)
        figures = CacheFigures(clock, client, CollectorRegistry())

        async def through_the_cache(tier: Tier) -> Get:
            cache = TieredCache([PlacedTier(tier, HOUR)], invalidations, clock, figures)
            await cache.put(KEY, entry)
            await cache.flush()

            async def get() -> object:
                hit = await cache.get(KEY)
                if hit is None or hit.entry.body != entry.body:
                    raise SystemExit(f"{tier.name.value} did not return the entry")
                return hit

            return get

        redis_tier = RedisTier(CacheTier.LOCAL_REDIS, client, codec, clock, max_seconds=HOUR.total_seconds(), is_alone=True)
        found = {
            "memory": await through_the_cache(MemoryTier(1_000_000, clock)),
            "redis": await through_the_cache(redis_tier),
            "postgres": await through_the_cache(PostgresTier(sessions, codec)),
        }
        await raw_redis.set("raw", codec.encode(KEY, entry))

        async def get_redis() -> object:
            return await raw_redis.get("raw")

        async def get_postgres() -> object:
            return await raw_postgres.fetchval(RAW, KEY.tenant, KEY.name)

        yield found | {"raw redis": get_redis, "raw postgres": get_postgres}


async def run(stores: PrivateStores) -> Ratios:
    times: dict[str, list[float]] = {}
    async with gets(stores) as compared:
        gc.freeze()
        for number in range(ROUNDS + 1):
            for name, get in compared.items():
                passed = []
                for _ in range(GETS):
                    started = time.perf_counter()
                    await get()
                    passed.append(time.perf_counter() - started)
                if number:  # the first round only warms up
                    times.setdefault(name, []).extend(passed)
    p50 = {name: statistics.median(passed) * 1e6 for name, passed in times.items()}
    for name, median in p50.items():
        print(f"    get of 2 kB from {name}: p50 {median:.1f} us")
    return Ratios(p50["memory"] / p50["raw redis"], p50["redis"] / p50["raw redis"], p50["postgres"] / p50["raw postgres"])


def measure() -> Ratios:
    with tempfile.TemporaryDirectory(prefix="greenlang-bench-") as folder:
        stores = PrivateStores.launch(Path(folder) / "data")
        try:
            stores.wait()
            asyncio.run(migrate(stores.owner.reveal()))
            return asyncio.run(run(stores))
        finally:
            stores.stop()


if __name__ == "__main__":
    print(measure())
