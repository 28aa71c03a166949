"""The newest schema, and a key to begin with."""

from __future__ import annotations

from app.access.key_rows import NewKey
from app.access.keys import KeyStore
from app.access.principal import Scope
from app.clock import Clock
from app.db.engines import build_engines
from app.db.migrate import migrate
from app.db.sessions import Sessions
from app.settings import Settings

FIRST_TENANT = "default"
_FIRST_KEY = "administrator"


async def take_first_steps(settings: Settings, clock: Clock) -> str | None:
    """The secret of the first administrator where there never was a key. Raises StoreUnavailable and SettingsError."""
    assert settings.database.primary is not None
    url = settings.database.primary.reveal()
    await migrate(url)
    engines = build_engines(url, (), settings.database)
    try:
        keys = KeyStore(Sessions(engines), clock)
        if await keys.has_any():
            return None
        return (await keys.create(NewKey(_FIRST_KEY, FIRST_TENANT, frozenset({Scope.ADMIN})))).secret
    finally:
        await engines.close()
