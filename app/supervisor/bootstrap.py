"""Brings the database to the newest schema and makes the first key."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from app.access.key_rows import NewKey
from app.access.keys import KeyStore
from app.access.principal import Scope
from app.db.cluster_check import does_any_answer, find_cluster
from app.db.engines import build_engines
from app.db.migrate import prepare_database
from app.db.server_report import ask_server, known_servers, too_many_connections
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.runtime.clock import Clock
from app.settings import Settings
from app.supervisor.preparation import Prepared

_log = logging.getLogger(__name__)
FIRST_TENANT = "default"
_FIRST_KEY = "administrator"


async def prepare_schema(settings: Settings, clock: Clock) -> Prepared:
    """Brings the database to the newest schema, and says whether there ever was a key. Raises GreenLangError."""
    try:
        await prepare_database(settings.database)
    except StoreUnavailable:
        if await does_any_answer(settings.database):
            raise
        return Prepared.WAITS
    await _warn_of_too_many_connections(settings)
    async with _key_store(settings, clock) as keys:
        try:
            return Prepared.WITH_KEYS if await keys.has_any() else Prepared.WITHOUT_KEYS
        except StoreUnavailable:
            if await find_cluster(settings.database) is None:
                raise
            return Prepared.WITH_KEYS  # a first key is made by a start that finds the primary


async def _warn_of_too_many_connections(settings: Settings) -> None:
    for url in known_servers(settings.database):
        with suppress(StoreUnavailable):
            report = await ask_server(url, settings.database.connect_timeout)
            warning = too_many_connections(settings.database, settings.server.workers, report)
            if warning is not None:
                _log.warning("%s", warning, extra={"server": str(url.hosts[0])})


async def create_first_key(settings: Settings, clock: Clock) -> str:
    """Returns the secret of the first administrator. Raises StoreUnavailable and SettingsError."""
    async with _key_store(settings, clock) as keys:
        return (await keys.create(NewKey(_FIRST_KEY, FIRST_TENANT, frozenset({Scope.ADMIN})))).secret


@asynccontextmanager
async def _key_store(settings: Settings, clock: Clock) -> AsyncIterator[KeyStore]:
    assert settings.database.primary is not None
    engines = build_engines(settings.database.primary.reveal(), (), settings.database)
    try:
        yield KeyStore(Sessions(engines), clock)
    finally:
        await engines.close()
