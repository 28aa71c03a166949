"""The stores for a single command: those of the configuration, those of a server that runs on the data directory, or, if none
runs, private ones while the command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.embedded.stores import StoreAddresses
from app.runtime.clock import Clock
from app.settings import Settings
from app.supervisor.ownership import DataDirectoryInUse, owned
from app.supervisor.private_stores import NeededStores, with_private_stores


@contextmanager
def reachable_stores(settings: Settings, clock: Clock, *, redis: bool, vectors: bool = False) -> Iterator[Settings]:
    """Yields the settings with PostgreSQL's address, and with those of Redis and Chroma if they are needed. Raises SettingsError
    and StoresFailed."""
    needed = NeededStores.of(settings, redis=redis, vectors=vectors)
    if not needed:
        yield settings
        return
    try:
        with owned(settings.server.data_dir, clock) as data_dir:
            needed = needed.without_cache_if_impossible(data_dir)
            stores = needed.launch(data_dir)
            try:
                stores.wait()
                yield with_private_stores(settings, stores, cache=needed.cache_bytes is not None)
            finally:
                stores.stop()
    except DataDirectoryInUse:
        stores_there = StoreAddresses(settings.server.data_dir.resolve())
        cache = needed.cache_bytes is not None and stores_there.has_cache
        yield with_private_stores(settings, stores_there, cache=cache)
