"""Connections to the primary and its replicas. Each server has one engine: the driver does not balance a list of hosts in one
URL, so reads are spread here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.db.openings import Openings
from app.db.stall_detector import StallDetector
from app.settings import DatabaseSettings

_STALL_SECONDS = 2.0
"""A stalled server does not end a statement that takes too long. We end it after this additional time."""


def build_engine(url: str, settings: DatabaseSettings, openings: Openings | None = None) -> AsyncEngine:
    """`url` is `postgresql://…`. Raises nothing, because the first use connects."""
    return create_async_engine(
        _driver_url(url),
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_timeout=settings.pool_timeout.total_seconds(),
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args=_connect_args(settings, openings or Openings()),
    )


def build_stall_detector(url: str, settings: DatabaseSettings, openings: Openings | None = None) -> StallDetector:
    connect_args = _connect_args(settings, openings or Openings())
    return StallDetector(
        create_async_engine(_driver_url(url), poolclass=NullPool, hide_parameters=True, connect_args=connect_args)
    )


def _driver_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+asyncpg://", 1)


def _connect_args(settings: DatabaseSettings, openings: Openings) -> dict[str, object]:
    connect_args: dict[str, object] = {
        "async_creator_fn": openings.open,
        "timeout": settings.connect_timeout.total_seconds(),
        "command_timeout": settings.statement_timeout.total_seconds() + _STALL_SECONDS,
        "server_settings": {
            "application_name": "greenlang",
            "statement_timeout": str(int(settings.statement_timeout.total_seconds() * 1000)),
        },
    }
    if not settings.statement_cache:
        connect_args |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    return connect_args


@dataclass(frozen=True)
class Engines:
    """`stall_detectors` has one entry for each engine."""

    primary: AsyncEngine
    replicas: tuple[AsyncEngine, ...]
    stall_detectors: Mapping[AsyncEngine, StallDetector]
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
        for engine in (self.primary, *self.replicas):
            await engine.dispose()
        await self.openings.close()


def build_engines(primary: str, replicas: Sequence[str], settings: DatabaseSettings) -> Engines:
    openings = Openings()
    stall_detectors = {
        build_engine(url, settings, openings): build_stall_detector(url, settings, openings) for url in (primary, *replicas)
    }
    first, *others = stall_detectors
    return Engines(first, tuple(others), stall_detectors, openings)
