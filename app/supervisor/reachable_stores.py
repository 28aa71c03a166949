"""The stores for a single command: those of the configuration, those of a server that runs on the data directory, or, if none
runs, private ones while the command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.embedded.stores import PrivateStores, StoreAddresses
from app.runtime.clock import Clock
from app.settings import Settings
from app.supervisor.ownership import DataDirectoryInUse, owned
from app.supervisor.serve import with_private_stores


@contextmanager
def reachable_stores(settings: Settings, clock: Clock, *, redis: bool) -> Iterator[Settings]:
    """Yields the settings with PostgreSQL's address, and with that of Redis if it is needed. Raises SettingsError and
    StoresFailed."""
    postgres, valkey = settings.database.primary is None, redis and settings.redis.url is None
    if not postgres and not valkey:
        yield settings
        return
    try:
        with owned(settings.server.data_dir, clock) as data_dir:
            stores = PrivateStores.launch(data_dir, postgres=postgres, valkey=valkey)
            try:
                stores.wait()
                yield with_private_stores(settings, stores)
            finally:
                stores.stop()
    except DataDirectoryInUse:
        yield with_private_stores(settings, StoreAddresses(settings.server.data_dir.resolve()))
