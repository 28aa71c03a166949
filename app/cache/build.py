"""Builds the cache of a process from the configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from prometheus_client import CollectorRegistry

from app.cache.entries import EntryCodec
from app.cache.figures import CacheFigures
from app.cache.invalidations import Invalidations, delete_old
from app.cache.memory import MemoryTier
from app.cache.postgres import PostgresTier
from app.cache.reads import ReadCache
from app.cache.redis import RedisTier
from app.cache.tiered import PlacedTier, TieredCache
from app.db.sessions import Sessions
from app.domain.usage import CacheTier
from app.events.relay import Relay
from app.redis.clients import RedisClient, connect_redis
from app.runtime.clock import Clock
from app.secrets.sealing import build_sealer
from app.settings import LocalCacheSettings, Settings, SharedCacheSettings

DELETE_EVERY: Final = timedelta(minutes=5)
MAX_READ_BYTES: Final = 4 * 1024 * 1024
"""How much the domain's own reads may take in each process."""


@dataclass(frozen=True, slots=True)
class BuiltCache:
    """`redis` has the client of each Redis tier. `delete_excess` deletes from PostgreSQL what is no longer needed. `reads` keeps
    the domain's own reads; None if there is no tier in memory."""

    tiered: TieredCache
    clock: Clock
    invalidations: Invalidations
    figures: CacheFigures
    redis: dict[CacheTier, RedisClient]
    delete_excess: Callable[[], Awaitable[None]]
    reads: ReadCache | None


def build_cache(
    settings: Settings,
    sessions: Sessions,
    redis: RedisClient,
    relay: Relay,
    *,
    clock: Clock,
    registry: CollectorRegistry,
    stack: AsyncExitStack,
) -> BuiltCache:
    """Builds the enabled tiers, from the fastest to the slowest. If content is not to be kept, it stays in memory. The
    processes coordinate through `redis`.

    Raises SettingsError if a URL has another form.
    """
    sealer = build_sealer(settings.content.encryption_keys)
    codec, tiers, clients = EntryCodec(sealer), list[PlacedTier](), dict[CacheTier, RedisClient]()
    cache = settings.cache
    memory, postgres = MemoryTier(cache.memory.max_bytes, clock), PostgresTier(sessions, codec)
    if cache.enabled and cache.memory.enabled:
        tiers.append(PlacedTier(memory, cache.memory.ttl))

    def add(name: CacheTier, server: LocalCacheSettings | SharedCacheSettings, setting: str, *, is_alone: bool) -> None:
        if server.url is None or not server.enabled:
            return
        redis_settings = settings.redis.model_copy(update={"tls_ca": server.tls_ca})
        client = clients[name] = connect_redis(server.url.reveal(), redis_settings, clock, setting=setting)
        server.url.on_change(client.take_url)
        stack.push_async_callback(client.close)
        tier = RedisTier(name, client, codec, clock, max_seconds=server.ttl.total_seconds(), is_alone=is_alone)
        tiers.append(PlacedTier(tier, server.ttl))

    if cache.enabled and settings.content.store:
        add(CacheTier.LOCAL_REDIS, cache.local, "cache.local.url", is_alone=True)
        add(CacheTier.SHARED_REDIS, cache.shared, "cache.shared.url", is_alone=False)
        if cache.postgres.enabled:
            tiers.append(PlacedTier(postgres, cache.postgres.ttl, cache.postgres.min_saved_usd))
    reads = ReadCache(clock, MAX_READ_BYTES, is_known=lambda: invalidations.is_known)
    stack.push_async_callback(reads.close)

    def lose() -> None:
        memory.clear()
        reads.clear()

    invalidations = Invalidations(sessions, relay, clock, on_lost=lose, on_taken=reads.invalidate)

    async def delete_excess() -> None:
        await postgres.delete_excess(cache.postgres.max_bytes)
        await delete_old(sessions)

    figures = CacheFigures(clock, redis, registry)
    return BuiltCache(
        tiered=TieredCache(tiers, invalidations, clock, figures),
        clock=clock,
        invalidations=invalidations,
        figures=figures,
        redis=clients,
        delete_excess=delete_excess,
        reads=reads if cache.enabled and cache.memory.enabled else None,
    )
