"""Which private stores a configuration needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.embedded.stores import StoreAddresses, has_private_store
from app.secrets.reference import SecretReference
from app.settings import (
    CacheSettings,
    ContentSettings,
    DatabaseSettings,
    LocalCacheSettings,
    RedisSettings,
    ServerSettings,
    Settings,
    VectorSettings,
    VectorStoreKind,
    VectorStoreSettings,
)
from app.supervisor.private_stores import NeededStores, with_private_stores

ELSEWHERE = SecretReference(env="GREENLANG_TEST_ELSEWHERE")
OWN_STORES = Settings(database=DatabaseSettings(primary=ELSEWHERE), redis=RedisSettings(url=ELSEWHERE))
HUNDRED_MIB = 104_857_600


def with_local(**local: object) -> Settings:
    return Settings(cache=CacheSettings(local=LocalCacheSettings.model_validate(local)))


class TestNeededStores:
    @pytest.mark.parametrize(
        ("settings", "needed"),
        [
            (Settings(), NeededStores(True, True, HUNDRED_MIB)),
            (OWN_STORES, NeededStores(False, False, HUNDRED_MIB)),
            (with_local(max_bytes=5), NeededStores(True, True, 5)),
            (with_local(url={"env": "GREENLANG_TEST_ELSEWHERE"}), NeededStores(True, True, None)),
            (with_local(enabled=False), NeededStores(True, True, None)),
            (Settings(cache=CacheSettings(enabled=False)), NeededStores(True, True, None)),
            (Settings(content=ContentSettings(store=False)), NeededStores(True, True, None)),
        ],
    )
    def test_the_cache_has_a_valkey_of_its_own_unless_it_cannot_use_one(self, settings: Settings, needed: NeededStores) -> None:
        assert NeededStores.of(settings) == needed

    def test_a_chroma_without_an_address_is_private(self) -> None:
        chroma = VectorStoreSettings(name="chroma", kind=VectorStoreKind.CHROMA)
        own = chroma.model_copy(update={"name": "own", "url": ELSEWHERE})
        settings = Settings(vectors=VectorSettings(stores=(own, chroma)))
        assert NeededStores.of(settings).chroma
        assert not NeededStores.of(settings, vectors=False).chroma
        assert not NeededStores.of(Settings(vectors=VectorSettings(stores=(own,)))).chroma

    def test_a_command_without_redis_needs_postgresql_alone(self) -> None:
        assert NeededStores.of(Settings(), redis=False) == NeededStores(True, False, None)
        assert not NeededStores.of(OWN_STORES, redis=False)


class TestAddresses:
    def test_are_filled_in_for_what_is_not_configured(self, tmp_path: Path) -> None:
        addresses = StoreAddresses(tmp_path)
        filled = with_private_stores(Settings(), addresses, cache=True)
        assert (filled.database.primary, filled.redis.url) == (addresses.database, addresses.redis)
        assert filled.cache.local.url == addresses.cache
        assert with_private_stores(Settings(), addresses, cache=False).cache.local.url is None

    def test_of_chroma_is_filled_in_for_each_store_without_one(self, tmp_path: Path) -> None:
        chroma = VectorStoreSettings(name="chroma", kind=VectorStoreKind.CHROMA)
        own = chroma.model_copy(update={"name": "own", "url": ELSEWHERE})
        addresses = StoreAddresses(tmp_path)
        filled = with_private_stores(Settings(vectors=VectorSettings(stores=(own, chroma))), addresses, cache=False)
        assert [store.url for store in filled.vectors.stores] == [ELSEWHERE, addresses.chroma]

    def test_a_private_valkey_of_the_cache_beside_shared_stores_makes_no_private_store(self, tmp_path: Path) -> None:
        own = OWN_STORES.model_copy(update={"server": ServerSettings(data_dir=tmp_path)})
        assert not has_private_store(with_private_stores(own, StoreAddresses(tmp_path.resolve()), cache=True))
        private = Settings(server=ServerSettings(data_dir=tmp_path))
        assert has_private_store(with_private_stores(private, StoreAddresses(tmp_path.resolve()), cache=True))
