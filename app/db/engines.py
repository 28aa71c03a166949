"""Connections to the primary and its replicas. Each server has one engine: the driver does not balance a list of hosts in one
URL, so reads are spread here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.db.openings import Openings
from app.db.stall_detector import StallDetector
from app.db.urls import DatabaseUrl, parse_database_url
from app.settings import DatabaseSettings

_STALL_SECONDS = 2.0
"""A stalled server does not end a statement that takes too long. We end it after this additional time."""


def build_engine(url: DatabaseUrl, settings: DatabaseSettings, openings: Openings | None = None) -> AsyncEngine:
    """Raises nothing, because the first use connects."""
    return create_async_engine(
        driver_url(url),
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_timeout=settings.pool_timeout.total_seconds(),
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args=_connect_args(url, settings, openings or Openings()),
    )


def build_stall_detector(url: DatabaseUrl, settings: DatabaseSettings, openings: Openings | None = None) -> StallDetector:
    connect_args = _connect_args(url, settings, openings or Openings())
    return StallDetector(
        create_async_engine(driver_url(url), poolclass=NullPool, hide_parameters=True, connect_args=connect_args)
    )


def driver_url(url: DatabaseUrl) -> URL:
    """It says where, for what shows an engine. The driver gets everything from `DatabaseUrl.connect_arguments`."""
    return URL.create("postgresql+asyncpg", url.user, host=url.hosts[0].name, port=url.hosts[0].port, database=url.database)


def _connect_args(url: DatabaseUrl, settings: DatabaseSettings, openings: Openings) -> dict[str, object]:
    connect_args: dict[str, object] = {
        **url.connect_arguments(),
        "async_creator_fn": openings.open,
        "timeout": settings.connect_timeout.total_seconds(),
        "command_timeout": settings.statement_timeout.total_seconds() + _STALL_SECONDS,
        "server_settings": {"application_name": "greenlang"}
        | {name: str(limit // timedelta(milliseconds=1)) for name, limit in time_limits(settings).items() if not settings.pooled},
    }
    if not settings.statement_cache:
        connect_args |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    return connect_args


def time_limits(settings: DatabaseSettings) -> dict[str, timedelta]:
    """Parameters of a connection. A pooler refuses them, so they are defaults of the role then."""
    return {"statement_timeout": settings.statement_timeout, "lock_timeout": settings.lock_timeout}


@dataclass(frozen=True)
class Engines:
    """`stall_detectors` has one entry for each engine. `listener` is for LISTEN: a notification does not pass a pooler. It is
    None if the server can be reached through a pooler alone."""

    primary: AsyncEngine
    replicas: tuple[AsyncEngine, ...]
    stall_detectors: Mapping[AsyncEngine, StallDetector]
    listener: AsyncEngine | None
    openings: Openings = field(default_factory=Openings)
    _turn: itertools.count[int] = field(default_factory=itertools.count)

    def reader(self) -> AsyncEngine:
        """Returns the next replica in turn, or the primary if there is none."""
        if not self.replicas:
            return self.primary
        return self.replicas[next(self._turn) % len(self.replicas)]

    async def close(self) -> None:
        for detector in self.stall_detectors.values():
            await detector.close()
        for engine in (self.primary, *self.replicas, self.listener):
            if engine is not None:
                await engine.dispose()
        await self.openings.close()


def build_engines(primary: str, replicas: Sequence[str], settings: DatabaseSettings) -> Engines:
    """The URLs are `postgresql://…`. Raises SettingsError."""
    openings = Openings()
    urls = [parse_database_url(primary, "database.primary")]
    for index, replica in enumerate(replicas):
        urls += parse_database_url(replica, f"database.replicas[{index}]").servers()
    stall_detectors = {build_engine(url, settings, openings): build_stall_detector(url, settings, openings) for url in urls}
    first, *others = stall_detectors
    return Engines(first, tuple(others), stall_detectors, _listener(first, settings, openings), openings)


def _listener(primary: AsyncEngine, settings: DatabaseSettings, openings: Openings) -> AsyncEngine | None:
    if not settings.pooled:
        return primary
    if settings.direct is None:
        return None
    url = parse_database_url(settings.direct.reveal(), "database.direct")
    return create_async_engine(
        driver_url(url), poolclass=NullPool, hide_parameters=True, connect_args=_connect_args(url, settings, openings)
    )
