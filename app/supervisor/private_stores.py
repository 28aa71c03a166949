"""Which private stores a configuration needs: those that it names no server for."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from app.domain.errors import SettingsError
from app.embedded.account import choose_account
from app.embedded.binaries import find_valkey
from app.embedded.stores import PrivateStores, StoreAddresses
from app.settings import Settings, VectorStoreKind, VectorStoreSettings

_EMBEDDED_POOL_MIN = 2
"""Each connection is a process of the same machine."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NeededStores:
    """`cache_bytes` is the maximum of the Valkey of the cache; None if it is not needed."""

    postgres: bool
    valkey: bool
    cache_bytes: int | None
    chroma: bool = False

    @classmethod
    def of(cls, settings: Settings, *, redis: bool = True, vectors: bool = True) -> NeededStores:
        """If `redis` and `vectors` are false, only PostgreSQL can be needed."""
        return cls(
            settings.database.primary is None,
            redis and settings.redis.url is None,
            _cache_bytes(settings) if redis else None,
            vectors and any(map(_is_private, settings.vectors.stores)),
        )

    def __bool__(self) -> bool:
        return self.postgres or self.valkey or self.cache_bytes is not None or self.chroma

    def launch(self, data_dir: Path) -> PrivateStores:
        """Returns while the stores start. Raises what `PrivateStores.launch` raises."""
        return PrivateStores.launch(
            data_dir, postgres=self.postgres, valkey=self.valkey, cache_bytes=self.cache_bytes, chroma=self.chroma
        )

    def without_cache_if_impossible(self, data_dir: Path) -> NeededStores:
        """A start with servers of your own needs no program and no account for private stores. The cache can work without this
        tier."""
        if self.cache_bytes is None or self.valkey or self.chroma:
            return self
        try:
            find_valkey()
            choose_account(data_dir, Path(sys.executable))
        except SettingsError as error:
            _log.warning("the cache has no local tier: no private Valkey can run here", extra={"reason": error.problem})
            return replace(self, cache_bytes=None)
        return self


def with_private_stores(settings: Settings, stores: StoreAddresses, *, cache: bool) -> Settings:
    """Returns the settings with the private stores' addresses where no address is configured. `cache`: whether the Valkey of the
    cache is one of the stores."""
    database, redis = settings.database, settings.redis
    if database.primary is None:
        ahead = database.pool_min if "pool_min" in database.model_fields_set else _EMBEDDED_POOL_MIN
        database = database.model_copy(update={"primary": stores.database, "owner": stores.owner, "pool_min": ahead})
    if redis.url is None:
        redis = redis.model_copy(update={"url": stores.redis})
    in_vectors = tuple(
        store.model_copy(update={"url": stores.chroma}) if _is_private(store) else store for store in settings.vectors.stores
    )
    vectors = settings.vectors.model_copy(update={"stores": in_vectors})
    completed = settings.model_copy(update={"database": database, "redis": redis, "vectors": vectors})
    if not cache:
        return completed
    local = settings.cache.local.model_copy(update={"url": stores.cache})
    return completed.model_copy(update={"cache": settings.cache.model_copy(update={"local": local})})


def _is_private(store: VectorStoreSettings) -> bool:
    return store.kind is VectorStoreKind.CHROMA and store.url is None


def _cache_bytes(settings: Settings) -> int | None:
    cache = settings.cache
    is_needed = cache.enabled and cache.local.enabled and cache.local.url is None and settings.content.store
    return cache.local.max_bytes if is_needed else None
