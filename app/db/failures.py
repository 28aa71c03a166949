"""Which errors come from the database, and which of them mean that it is unavailable."""

from __future__ import annotations

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

DATABASE_ERRORS = (
    OSError,
    TimeoutError,
    PoolTimeout,
    DBAPIError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What talking to PostgreSQL raises. asyncpg raises InternalClientError between the server's last message and the end of the
connection."""

_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
)


def driver_error(error: BaseException) -> BaseException:
    """What asyncpg raised, if SQLAlchemy has raised it again."""
    if isinstance(error, DBAPIError) and error.orig is not None and error.orig.__cause__ is not None:
        return error.orig.__cause__
    return error


def is_unavailable(error: BaseException) -> bool:
    """True if the server is away, shutting down, read-only or out of connections, or if a lock was not free in time. False if the
    statement is wrong."""
    if isinstance(error, (OSError, TimeoutError, PoolTimeout, InterfaceError, asyncpg.InternalClientError)):
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated or isinstance(error, OperationalError):
            return True
        return isinstance(driver_error(error), (*_UNAVAILABLE, asyncpg.InterfaceError))
    return isinstance(error, _UNAVAILABLE)
