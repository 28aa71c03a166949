"""No connection of a pool stays on a server whose role has changed.

A server that takes no writes any more refuses them on connections that are otherwise sound. So the first refusal ends the
connection, and the pool opens all others anew. Connections that are retired are replaced when they are taken next.
"""

from __future__ import annotations

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from app.db.openings import Openings


def leave_demoted_servers(engine: AsyncEngine, openings: Openings) -> None:
    """`openings` opens the engine's connections."""

    def check(_: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        if openings.has_retired(entry.driver_connection):
            raise DisconnectionError("the server has changed its role")

    event.listen(engine.sync_engine, "checkout", check)
    event.listen(engine.sync_engine, "handle_error", _end_if_read_only)


def _end_if_read_only(context: ExceptionContext) -> None:
    if isinstance(context.original_exception.__cause__, asyncpg.ReadOnlySQLTransactionError):
        context.is_disconnect = True
