"""What is the same in every tier, on real stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from app.cache.entries import EntryCodec
from app.cache.memory import MemoryTier
from app.cache.postgres import PostgresTier
from app.cache.redis import RedisTier
from app.cache.tier import Tier
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.domain.usage import CacheTier
from app.redis.clients import connect_redis
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, RedisSettings
from tests.app.cache.cached import a_key, an_entry
from tests.app.cache.conftest import DAY
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio


class TestEveryTier:
    async def test_gives_what_was_put(self, tier: Tier) -> None:
        key, entry = a_key(), an_entry(tags=("a", "b"))
        assert await tier.get(key) is None
        await tier.put(key, entry, 60)
        assert await tier.get(key) == entry
        assert await tier.get(a_key(key.tenant)) is None
        assert await tier.get(a_key(name=key.name)) is None

    async def test_keeps_the_last_that_was_put(self, tier: Tier) -> None:
        key = a_key()
        await tier.put(key, an_entry(b"first", tags=("old",)), 60)
        await tier.put(key, an_entry(b"second", tags=("new",)), 60)
        found = await tier.get(key)
        assert found is not None
        assert found.body == b"second"

    async def test_forgets_when_its_time_is_over(self, tier: Tier) -> None:
        key = a_key()
        await tier.put(key, an_entry(), 0.05)
        async with asyncio.timeout(10):
            while await tier.get(key) is not None:  # noqa: ASYNC110 (the condition is another party's state)
                await asyncio.sleep(0.01)
        assert await tier.tags_by_name(key.tenant) == {}

    async def test_lists_the_names_of_a_tenant_with_their_tags(self, tier: Tier) -> None:
        key = a_key()
        other = a_key(key.tenant)
        await tier.put(key, an_entry(tags=("a", "b")), 60)
        await tier.put(other, an_entry(), 60)
        await tier.put(a_key(), an_entry(tags=("a",)), 60)
        found = {name: set(tags) for name, tags in (await tier.tags_by_name(key.tenant)).items()}
        assert found == {key.name: {"a", "b"}, other.name: set()}

    async def test_removes_what_is_named_and_nothing_of_others(self, tier: Tier) -> None:
        key = a_key()
        kept, foreign = a_key(key.tenant), a_key(name=key.name)
        for each in (key, kept, foreign):
            await tier.put(each, an_entry(), 60)
        await tier.remove(key.tenant, [key.name, "completion/never/was"])
        assert await tier.get(key) is None
        assert await tier.get(kept) is not None
        assert await tier.get(foreign) is not None
        assert set(await tier.tags_by_name(key.tenant)) == {kept.name}

    async def test_takes_any_name_of_a_tenant(self, tier: Tier) -> None:
        for tenant in ("{a}", "a:b", "a*", "ä" * 128, "'; drop table cache_entries; --"):
            key = a_key(tenant)
            await tier.put(key, an_entry(), 60)
            assert await tier.get(key) is not None
            assert set(await tier.tags_by_name(tenant)) == {key.name}
            await tier.remove(tenant, [key.name])

    async def test_says_how_large_it_is(self, tier: Tier) -> None:
        await tier.put(a_key(), an_entry(b"x" * 500), 60)
        size = await tier.size()
        assert size.entries is not None
        assert size.entries >= 1
        assert size.bytes is not None
        assert size.bytes >= 500


class TestMemory:
    async def test_holds_no_more_than_its_bytes_and_drops_what_was_used_longest_ago(self) -> None:
        tier = MemoryTier(10_000, SystemClock())
        keys = [a_key("acme") for _ in range(20)]
        for key in keys:
            await tier.put(key, an_entry(b"x" * 1000), 60)
            assert await tier.get(keys[0]) is not None
            size = await tier.size()
            assert size.bytes is not None
            assert size.bytes <= 10_000
        kept = [key for key in keys if await tier.get(key) is not None]
        assert kept == [keys[0], *keys[-len(kept) + 1 :]]
        assert (await tier.size()).evictions == len(keys) - len(kept)

    async def test_does_not_keep_what_is_larger_than_itself(self) -> None:
        tier = MemoryTier(10_000, SystemClock())
        small = a_key()
        await tier.put(small, an_entry(), 60)
        await tier.put(a_key(), an_entry(b"x" * 10_001), 60)
        assert await tier.get(small) is not None
        assert (await tier.size()).entries == 1

    async def test_frees_everything_that_was_removed_or_has_expired(self) -> None:
        clock = ManualClock()
        tier = MemoryTier(10_000, clock)
        removed, expired = a_key(), a_key()
        await tier.put(removed, an_entry(), 60)
        await tier.put(expired, an_entry(), 60)
        await tier.remove(removed.tenant, [removed.name])
        clock.move(61)
        assert await tier.get(expired) is None
        assert ((await tier.size()).entries, (await tier.size()).bytes) == (0, 0)


class TestRedis:
    @pytest.fixture
    async def gone(self, codec: EntryCodec) -> AsyncIterator[RedisTier]:
        client = connect_redis("redis://127.0.0.1:1/0", RedisSettings(socket_timeout=timedelta(seconds=1)), SystemClock())
        yield RedisTier(CacheTier.SHARED_REDIS, client, codec, SystemClock(), max_seconds=DAY, is_alone=False)
        await client.close()

    async def test_that_is_away_says_so(self, gone: RedisTier) -> None:
        with pytest.raises(StoreUnavailable):
            await gone.get(a_key())
        with pytest.raises(StoreUnavailable):
            await gone.put(a_key(), an_entry(), 60)
        with pytest.raises(StoreUnavailable):
            await gone.tags_by_name("acme")
        assert not gone.available

    async def test_lists_no_entry_that_was_evicted(self, redis_tier: RedisTier, valkey_url: str) -> None:
        key = a_key()
        other = a_key(key.tenant)
        for each in (key, other):
            await redis_tier.put(each, an_entry(), 60)
        client = connect_redis(valkey_url, RedisSettings(), SystemClock())
        places = await client.execute(lambda server: server.keys(f"cache:*:{key.name}"))
        await client.execute(lambda server: server.unlink(*places))
        assert set(await redis_tier.tags_by_name(key.tenant)) == {other.name}
        await client.close()

    async def test_removes_a_damaged_entry(self, redis_tier: RedisTier, valkey_url: str) -> None:
        key = a_key()
        await redis_tier.put(key, an_entry(), 60)
        client = connect_redis(valkey_url, RedisSettings(), SystemClock())
        places = await client.execute(lambda server: server.keys(f"cache:*:{key.name}"))
        await client.execute(lambda server: server.append(places[0], b"more"))
        assert await redis_tier.get(key) is None
        assert await client.execute(lambda server: server.exists(places[0])) == 0
        await client.close()


class TestPostgres:
    async def test_that_is_away_says_so_once(self, codec: EntryCodec, caplog: pytest.LogCaptureFixture) -> None:
        engines = build_engines("postgresql://someone@127.0.0.1:1/nothing", [], DatabaseSettings())
        tier = PostgresTier(Sessions(engines), codec)
        states = [tier.available]
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                await tier.get(a_key())
            with pytest.raises(StoreUnavailable):
                await tier.put(a_key(), an_entry(), 60)
        assert [*states, tier.available] == [True, False]
        assert [record.message for record in caplog.records] == ["the cache's tier in PostgreSQL does not answer"]
        await engines.close()

    async def test_deletes_what_has_expired_and_then_what_expires_first(self, sessions: Sessions, codec: EntryCodec) -> None:
        tier = PostgresTier(sessions, codec)
        keys = [a_key("acme") for _ in range(6)]
        await tier.put(keys[0], an_entry(), 0.001)
        for place, key in enumerate(keys[1:], 1):
            await tier.put(key, an_entry(b"x" * 1000), 100 * place)
        await tier.delete_excess(3500)
        assert [await tier.get(key) is not None for key in keys] == [False, False, False, True, True, True]
        assert ((await tier.size()).entries, (await tier.size()).evictions) == (3, 2)
