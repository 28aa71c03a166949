"""What one server says of itself, and how many connections we may open to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from app.db.engines import server_urls
from app.db.failures import DATABASE_ERRORS
from app.db.urls import DatabaseUrl
from app.domain.errors import StoreUnavailable
from app.settings import DatabaseSettings

_BESIDE_THE_POOL = 2
"""Connections of each process that are not in its pool: the stall detector's and the server watch's."""
_LISTENERS = 2
"""Connections of each process to `database.direct`."""
_REPORT = """
select /* doctor.server */
    current_setting('server_version') as version,
    pg_is_in_recovery() as in_recovery,
    extract(epoch from now() - pg_last_xact_replay_timestamp()) as seconds_since_replay,
    pg_last_wal_receive_lsn() is not distinct from pg_last_wal_replay_lsn() as has_replayed_all,
    (select sum(numbackends) from pg_stat_database)::int as used,
    least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0),
        (select nullif(rolconnlimit, -1) from pg_roles where rolname = current_user),
        (select nullif(datconnlimit, -1) from pg_database where datname = current_database())
    ) as allowed,
    current_setting('hot_standby_feedback')::bool as hot_standby_feedback,
    current_setting('synchronous_standby_names') as synchronous_standbys,
    exists (select from pg_extension where extname = 'pg_stat_statements') as has_statistics
"""


@dataclass(frozen=True, slots=True)
class ServerReport:
    """`lag` is the time since the last replayed commit: zero if all that was received is replayed, None on a primary. `allowed`
    is what a role that is no superuser may have of `max_connections`."""

    version: str
    in_recovery: bool
    lag: timedelta | None
    used: int
    allowed: int
    hot_standby_feedback: bool
    synchronous_standbys: str
    has_statistics: bool

    def __str__(self) -> str:
        parts = ["replica" if self.in_recovery else "primary", self.version]
        if self.lag is not None:
            parts.append(f"{self.lag.total_seconds():.1f} s behind")
        parts.append(f"{self.used} of {self.allowed} connections used")
        if self.in_recovery:
            parts.append(f"hot_standby_feedback {'on' if self.hot_standby_feedback else 'off'}")
        else:
            parts.append("synchronous replication on" if self.synchronous_standbys else "no synchronous replication")
        parts.append("pg_stat_statements" if self.has_statistics else "no pg_stat_statements")
        return ", ".join(parts)


async def ask_server(url: DatabaseUrl, limit: timedelta) -> ServerReport:
    """Raises StoreUnavailable."""
    seconds = limit.total_seconds()
    limits: dict[str, Any] = {"timeout": seconds, "command_timeout": seconds, "statement_cache_size": 0}
    try:
        connection = await asyncpg.connect(**url.connect_arguments(), **limits)
        try:
            row = await connection.fetchrow(_REPORT)
        finally:
            await connection.close(timeout=seconds)
    except DATABASE_ERRORS as error:
        raise StoreUnavailable("PostgreSQL") from error
    assert row is not None
    return ServerReport(
        version=row["version"].partition(" ")[0],
        in_recovery=row["in_recovery"],
        lag=_lag(row),
        used=row["used"],
        allowed=row["allowed"],
        hot_standby_feedback=row["hot_standby_feedback"],
        synchronous_standbys=row["synchronous_standbys"],
        has_statistics=row["has_statistics"],
    )


def _lag(row: asyncpg.Record) -> timedelta | None:
    if not row["in_recovery"]:
        return None
    return timedelta() if row["has_replayed_all"] else timedelta(seconds=float(row["seconds_since_replay"] or 0))


def known_servers(settings: DatabaseSettings) -> list[DatabaseUrl]:
    """One URL for each server, without the pooler if its address is known. Raises SettingsError."""
    first = settings.direct or settings.primary
    assert first is not None
    return server_urls(first.reveal(), [replica.reveal() for replica in settings.replicas])


def most_connections(settings: DatabaseSettings, processes: int) -> int:
    """How many connections all processes of all pods can have open to one server."""
    of_a_process = settings.pool_size + settings.max_overflow + _BESIDE_THE_POOL
    if settings.direct is not None:
        of_a_process += _LISTENERS
    return of_a_process * processes * settings.pods


def too_many_connections(settings: DatabaseSettings, processes: int, report: ServerReport) -> str | None:
    """A warning, or None if the server allows as many as we can open. It is not known what a pooler opens."""
    most = most_connections(settings, processes)
    if settings.pooled or most <= report.allowed:
        return None
    return (
        f"{processes * settings.pods} server processes can open {most} connections, and the server allows {report.allowed}; "
        "raise its max_connections, lower database.pool_size and database.max_overflow, or put PgBouncer in front"
    )
