"""Brings a database to the newest revision, in one transaction: all of it or nothing. Several processes at once are safe, since
each waits for the lock and then finds nothing left to do."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.db.failures import is_unavailable
from app.errors import GreenLangError, StoreUnavailable

_SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"
_LOCK = 0x677265656E
_CONNECT_SECONDS = 10


class DatabaseIsNewer(GreenLangError):
    """It has a revision that this version does not know, and is left as it is."""


async def migrate(url: str) -> str:
    """The revision that the database at `postgresql://…` is at now. Raises StoreUnavailable where nobody answers, and
    DatabaseIsNewer."""
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://", 1),
        poolclass=NullPool,
        connect_args={"timeout": _CONNECT_SECONDS, "server_settings": {"application_name": "greenlang migrate"}},
    )
    try:
        async with engine.begin() as connection:
            await connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            return await connection.run_sync(_upgrade)
    except (OSError, TimeoutError, DBAPIError) as error:
        if is_unavailable(error):
            raise StoreUnavailable("PostgreSQL") from error
        raise
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> str:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise DatabaseIsNewer(f"the database was migrated by a newer GreenLang than this one: {error}") from error
    return MigrationContext.configure(connection).get_current_revision() or "empty"
