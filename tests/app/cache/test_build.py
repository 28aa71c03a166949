"""Which tiers a configuration has."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.cache.build import build_cache
from app.db.sessions import Sessions
from app.domain.usage import CacheTier
from app.events.relay import Relay
from app.redis.clients import connect_redis
from app.runtime.clock import SystemClock
from app.secrets.reference import SecretReference
from app.settings import (
    CacheSettings,
    ContentSettings,
    LocalCacheSettings,
    RedisSettings,
    Settings,
    SharedCacheSettings,
)
from app.settings.groups import MemoryCacheSettings, PostgresCacheSettings

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("cache", "store", "tiers"),
    [
        ({}, True, set(CacheTier)),
        ({}, False, {CacheTier.MEMORY}),
        ({"memory": MemoryCacheSettings(enabled=False)}, False, set()),
        ({"enabled": False}, True, set()),
        ({"local": LocalCacheSettings(enabled=False)}, True, set(CacheTier) - {CacheTier.LOCAL_REDIS}),
        ({"shared": SharedCacheSettings()}, True, set(CacheTier) - {CacheTier.SHARED_REDIS}),
        ({"postgres": PostgresCacheSettings(enabled=False)}, True, set(CacheTier) - {CacheTier.POSTGRES}),
    ],
    ids=["all", "content is not kept", "nothing", "disabled", "no local", "no shared", "no postgres"],
)
async def test_a_cache_has_the_configured_tiers_and_only_the_memory_if_content_is_not_kept(
    cache: dict[str, Any], tiers: set[CacheTier], sessions: Sessions, valkey_url: str, tmp_path: Path, *, store: bool
) -> None:
    (tmp_path / "url").write_text(valkey_url)
    url = SecretReference(file=tmp_path / "url")
    servers = {"local": LocalCacheSettings(url=url), "shared": SharedCacheSettings(url=url)}
    settings = Settings(cache=CacheSettings(**{**servers, **cache}), content=ContentSettings(store=store))
    clock = SystemClock()
    redis = connect_redis(valkey_url, RedisSettings(), clock)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(redis.close)
        built = build_cache(
            settings, sessions, redis, Relay(sessions, clock), clock=clock, registry=CollectorRegistry(), stack=stack
        )
        stats = await built.tiered.stats(None)
    assert {tier.tier for tier in stats.tiers if tier.available} == tiers
