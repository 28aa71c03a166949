"""Brings a database to the newest revision, in one transaction: all of it or nothing. Then it makes the indexes of large tables,
each by itself.

Several processes may do this at once: each waits for the lock and then finds nothing left to do. The service may run meanwhile:
a statement that does not get the lock of a table soon gives way, and the whole transaction is repeated.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from app.db.cluster_check import FoundCluster, at_primary, find_cluster
from app.db.engines import driver_url, time_limits
from app.db.failures import driver_error, is_unavailable
from app.db.large_indexes import LargeIndex, make_indexes
from app.db.roles import grant_serving, risks_of_roles, set_role_limits
from app.db.urls import DatabaseUrl, check_database_urls, parse_database_url
from app.db.vector_extension import create_vector_extension
from app.domain.errors import GreenLangError, SettingsError, StoreUnavailable
from app.runtime.clock import Clock, SystemClock
from app.secrets.reference import SecretReference
from app.settings import DatabaseSettings

_SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"
_LOCK = 0x677265656E
_CONNECT_SECONDS = 10

_NO_IDLE_LIMIT = text("select set_config('idle_in_transaction_session_timeout', '0', true)")
_PAUSE_SECONDS = 1.0
MAX_BLOCKED_SECONDS = 120.0
_NO_LIMITS_OF_SESSION = text("select set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false)")
_LIMIT_WAIT = text("select set_config('lock_timeout', '2s', true)")
"""While a statement waits for the lock of a table, every later statement on that table waits too."""
_NO_LIMITS = text("select set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true)")
"""A migration may take long, also if the role has limits."""
_log = logging.getLogger(__name__)


class DatabaseIsNewer(GreenLangError):
    """The database has a revision that this version does not know. It is left as it is."""


class MigrationBlocked(GreenLangError):
    """Other transactions kept a table locked for too long. The database is left as it was."""


class MayNotMigrate(GreenLangError):
    """The database needs a migration, but its role does not have the right to do it."""


async def prepare_database(settings: DatabaseSettings) -> str:
    """Brings the database to the newest schema, as `owner` if there is one, and grants the role of `primary` what it needs to
    serve. Returns the revision.

    Raises StoreUnavailable, SettingsError, DatabaseIsNewer and MayNotMigrate.
    """
    assert settings.primary is not None
    check_database_urls(settings)
    found = await find_cluster(settings)
    primary = at_primary(parse_database_url(settings.primary.reveal(), "database.primary"), found)
    if found is not None and found.primary is None:
        return await _check_revision(found)
    direct = await _same_database("database.direct", settings.direct, primary)
    if settings.owner is None:
        alone = settings.pooled and settings.direct is None
        revision = await _migrate(direct, None, SystemClock(), through_pooler=alone)
    else:
        role = serving_role(settings.primary.reveal())
        revision = await _migrate(await _same_database("database.owner", settings.owner, primary), role, SystemClock())
    async with _locked(primary) as connection:
        if await connection.run_sync(_revision) != revision:
            raise SettingsError(
                "database.primary",
                "its role does not find the tables of database.owner; check the search_path of both roles",
            )
        limits = role_limits(settings)
        if not await set_role_limits(connection, limits):
            _log.warning("the server does not let the role set %s; set it for the role yourself", " and ".join(limits))
    return revision


async def _check_revision(found: FoundCluster) -> str:
    """Without a primary nothing can be migrated, but a database with the newest schema can be read. Raises StoreUnavailable if no
    server answers or a migration is missing."""
    newest = str(ScriptDirectory(str(_SCRIPTS)).get_current_head())
    if not found.answering:
        raise StoreUnavailable("PostgreSQL")
    _log.warning("PostgreSQL has no primary; the schema is not migrated", extra={"answering": len(found.answering)})
    async with _transaction(found.answering[0]) as connection:
        if await connection.run_sync(_revision) != newest:
            raise StoreUnavailable("the primary of PostgreSQL", "the database needs a migration first")
    return newest


def role_limits(settings: DatabaseSettings) -> dict[str, timedelta]:
    """The time limits that are kept as defaults of the role: all of them if a pooler refuses them for a connection."""
    limits = {"idle_in_transaction_session_timeout": settings.idle_transaction_timeout}
    if settings.pooled:
        limits |= time_limits(settings)
    return limits


def serving_role(primary: str) -> str:
    """Returns the name of the serving role from its URL. Raises SettingsError if the URL has none."""
    name = parse_database_url(primary, "database.primary").user
    if name is None:
        raise SettingsError("database.primary", "its URL must name the role if database.owner is set: postgresql://ROLE:…@…")
    return name


async def migrate(url: str, serving: str | None = None, clock: Clock | None = None) -> str:
    """Returns the revision of the database at `postgresql://…` after the migration. The role `serving` may then serve with it.
    Raises StoreUnavailable if the server does not answer, DatabaseIsNewer, MayNotMigrate, MigrationBlocked, and SettingsError
    if `serving` does not exist."""
    return await _migrate(parse_database_url(url, "database.primary"), serving, clock or SystemClock())


async def _migrate(url: DatabaseUrl, serving: str | None, clock: Clock, *, through_pooler: bool = False) -> str:
    until = clock.monotonic() + MAX_BLOCKED_SECONDS
    while True:
        try:
            revision = await _upgrade_once(url, serving)
            break
        except StoreUnavailable as error:
            if not isinstance(driver_error(error.__cause__ or error), asyncpg.LockNotAvailableError):
                raise
            if clock.monotonic() >= until:
                raise MigrationBlocked(
                    "the database needs a migration, but other transactions keep its tables locked; end them, see "
                    "pg_stat_activity, and start again"
                ) from error
            _log.warning("the migration waits: another transaction keeps a table locked")
        await clock.sleep(_PAUSE_SECONDS)
    await _make_indexes(url, through_pooler=through_pooler)
    return revision


async def _make_indexes(url: DatabaseUrl, *, through_pooler: bool) -> None:
    """Holds the lock in a transaction without a snapshot, for which the indexes need not wait. A pooler would give the settings
    of a session to other clients."""
    indexes = large_indexes()
    if indexes:
        async with _locked(url) as _, _transaction(url, autocommit=True) as connection:
            if not through_pooler:
                await connection.execute(_NO_LIMITS_OF_SESSION)
            await make_indexes(connection, indexes)


def large_indexes() -> list[LargeIndex]:
    """Returns the large indexes of all migrations, in their order."""
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    scripts = reversed(list(ScriptDirectory.from_config(config).walk_revisions()))
    return [index for script in scripts for index in getattr(script.module, "INDEXES", ())]


async def _upgrade_once(url: DatabaseUrl, serving: str | None) -> str:
    async with _transaction(url) as connection:
        await connection.execute(_NO_LIMITS)
        await connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        await connection.execute(_LIMIT_WAIT)
        try:
            revision = await connection.run_sync(_upgrade)
            if not await create_vector_extension(connection):
                _log.info("the database has no extension vector, so there are no collections in the store pgvector")
            if serving is not None:
                await grant_serving(connection, serving)
                for warning in await risks_of_roles(connection, serving):
                    _log.warning("%s", warning)
        except DBAPIError as error:
            if isinstance(error.orig.__cause__ if error.orig else None, asyncpg.InsufficientPrivilegeError):
                raise MayNotMigrate(
                    "the database needs a migration that its role may not do; set database.owner to the role that owns the "
                    "schema, or run `greenlang migrate` with it"
                ) from error
            raise
    return revision


async def _same_database(setting: str, reference: SecretReference | None, primary: DatabaseUrl) -> DatabaseUrl:
    """Returns the URL of `reference`, or `primary` if there is none. Runs before either database is changed. A lock of one
    session cannot be taken by the other if both use the same database.

    Raises StoreUnavailable and SettingsError.
    """
    if reference is None:
        return primary
    url = parse_database_url(reference.reveal(), setting)
    lock = {"lock": secrets.randbits(63)}
    async with _transaction(url) as held, _transaction(primary) as other:
        await held.execute(text("select pg_advisory_xact_lock(:lock)"), lock)
        if (await other.execute(text("select pg_try_advisory_xact_lock(:lock)"), lock)).scalar_one():
            raise SettingsError("database.primary", f"it leads to another database than {setting}; name the same in both")
    return url


@asynccontextmanager
async def _locked(url: DatabaseUrl) -> AsyncIterator[AsyncConnection]:
    """One transaction. Only one process at a time prepares the database. Raises StoreUnavailable."""
    async with _transaction(url) as connection:
        await connection.execute(_NO_IDLE_LIMIT)
        await connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield connection


@asynccontextmanager
async def _transaction(url: DatabaseUrl, *, autocommit: bool = False) -> AsyncIterator[AsyncConnection]:
    """With `autocommit`, each statement is a transaction. Raises StoreUnavailable."""
    engine = create_async_engine(
        driver_url(url),
        poolclass=NullPool,
        connect_args={
            **url.connect_arguments(),
            "timeout": _CONNECT_SECONDS,
            "server_settings": {"application_name": "greenlang migrate"},
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
        },
    )
    try:
        serving = engine.execution_options(isolation_level="AUTOCOMMIT") if autocommit else engine
        async with serving.begin() as connection:
            yield connection
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
    return _revision(connection)


def _revision(connection: Connection) -> str:
    return MigrationContext.configure(connection).get_current_revision() or "empty"
