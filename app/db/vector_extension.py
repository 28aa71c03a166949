"""The extension `vector` of PostgreSQL. Only a superuser can create it, so it is no part of a revision.

Each migration tries to create it. In the embedded server its superuser has already done so, if the extension is installed.
Without it, everything else works, and collections in the store `pgvector` are refused.
"""

from __future__ import annotations

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.sessions import ReadSession, WriteSession

_HAS = text("select 1 from pg_extension where extname = 'vector'")
_SCHEMA = text(
    "select quote_ident(n.nspname) from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector'"
)
_MAY_NOT = (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError)


async def create_vector_extension(connection: AsyncConnection) -> bool:
    """Creates the extension if the role may and it is installed. Returns whether the database has it."""
    if (await connection.execute(_HAS)).first() is not None:
        return True
    try:
        async with connection.begin_nested():
            await connection.execute(text("create extension vector schema vectors"))
    except DBAPIError as error:
        if isinstance(error.orig.__cause__ if error.orig else None, _MAY_NOT):
            return False
        raise
    return True


async def vector_extension_schema(session: ReadSession | WriteSession) -> str | None:
    """Returns the schema of the extension as an SQL identifier; None if the database does not have it."""
    found: str | None = (await session.execute(_SCHEMA)).scalar()
    return found
