"""Connections to the servers of PostgreSQL. Each has one engine. Which of them is the primary, and which replica a read goes to,
is found out here: the driver would take the first server that answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.db.demotion import leave_demoted_servers
from app.db.openings import Logins, Openings
from app.db.pools import CountingPool
from app.db.server_watch import ServerWatch
from app.db.servers import Server, Servers
from app.db.stall_detector import StallDetector
from app.db.statement_times import StatementTimes
from app.db.urls import DatabaseUrl, parse_database_url
from app.domain.errors import SettingsError
from app.runtime.clock import Clock, SystemClock
from app.settings import DatabaseSettings

_STALL_SECONDS = 2.0
"""A stalled server does not end a statement that takes too long. We end it after this additional time."""


def build_engine(url: DatabaseUrl, settings: DatabaseSettings, openings: Openings | None = None) -> AsyncEngine:
    """Raises nothing, because the first use connects."""
    return create_async_engine(
        driver_url(url),
        poolclass=CountingPool,
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
    """With one host there is no `watch`: that host is the primary, whatever it says. `pooled`: notifications do not arrive
    through the servers' addresses. `direct` leads past the pooler; None if there is no such way."""

    servers: Servers
    watch: ServerWatch | None
    times: StatementTimes
    direct: AsyncEngine | None = None
    pooled: bool = False
    direct_logins: Logins | None = None

    @property
    def primary(self) -> AsyncEngine:
        """Raises StoreUnavailable while there is no primary."""
        return (self.servers.every[0] if self.watch is None else self.servers.known_primary()).engine

    async def writer(self) -> Server:
        """The primary. Raises StoreUnavailable while there is none."""
        if self.watch is None:
            return self.servers.every[0]
        return await self.watch.primary()

    async def listening(self) -> AsyncEngine | None:
        """Where NOTIFY arrives; None if the servers can be reached through a pooler alone. Raises StoreUnavailable while there
        is no primary."""
        if self.pooled:
            return self.direct
        return (await self.writer()).engine

    async def wait_for_change(self, seconds: float, clock: Clock) -> None:
        """Returns after `seconds`, or sooner if a server has changed its role."""
        if self.watch is None:
            await clock.sleep(seconds)
        else:
            await self.watch.change(seconds)

    def by_name(self) -> dict[str, AsyncEngine]:
        """The engines of the servers, by host and port."""
        return {server.name: server.engine for server in self.servers.every}

    def doubt(self, server: Server) -> None:
        """Call it when a server has failed a statement."""
        if self.watch is not None:
            self.watch.doubt(server)

    def take_url(self, setting: str, text: str) -> None:
        """Takes the login of a URL that has changed. Raises SettingsError if the URL names another server or database."""
        url = parse_database_url(text, setting)
        servers = {server.url.hosts[0]: server for server in self.servers.every}
        for each in url.servers():
            server = servers.get(each.hosts[0])
            if server is None or server.url.database != url.database:
                raise SettingsError(setting, "names another server or database; that needs a restart")
        for each in url.servers():
            servers[each.hosts[0]].change_login(each)

    def take_direct_url(self, text: str) -> None:
        """The same for `database.direct`."""
        if self.direct_logins is not None:
            self.direct_logins.change(parse_database_url(text, "database.direct").login)

    async def close(self) -> None:
        if self.watch is not None:
            await self.watch.close()
        for server in self.servers.every:
            await server.close()
        if self.direct is not None:
            await self.direct.dispose()


def build_engines(primary: str, replicas: Sequence[str], settings: DatabaseSettings) -> Engines:
    """The URLs are `postgresql://…`, each with one host or several. Raises SettingsError."""
    urls = server_urls(primary, replicas)
    servers = Servers([_build_server(url, settings) for url in urls])
    watch = ServerWatch(servers, settings) if len(urls) > 1 else None
    times = StatementTimes(settings.slow_statement, SystemClock().monotonic)
    for server in servers.every:
        times.observe(server.engine.sync_engine)
    direct = None if settings.direct is None else parse_database_url(settings.direct.reveal(), "database.direct")
    openings = None if direct is None else Openings(Logins(direct.login))
    engine = None if direct is None else _direct(direct, settings, openings)
    return Engines(servers, watch, times, engine, settings.pooled, None if openings is None else openings.logins)


def server_urls(primary: str, replicas: Sequence[str]) -> list[DatabaseUrl]:
    """One URL for each host; a host that is named twice is there once. Raises SettingsError."""
    first = parse_database_url(primary, "database.primary")
    urls = {url.hosts[0]: url for url in first.servers()}
    for index, replica in enumerate(replicas):
        setting = f"database.replicas[{index}]"
        for url in parse_database_url(replica, setting).servers():
            if url.database != first.database:
                raise SettingsError(setting, f"{url.hosts[0]} is a replica of another database than that of database.primary")
            urls.setdefault(url.hosts[0], url)
    return list(urls.values())


def _build_server(url: DatabaseUrl, settings: DatabaseSettings) -> Server:
    openings = Openings(Logins(url.login))
    engine = build_engine(url, settings, openings)
    leave_demoted_servers(engine, openings)
    return Server(url, engine, build_stall_detector(url, settings, openings), openings)


def _direct(url: DatabaseUrl, settings: DatabaseSettings, openings: Openings | None) -> AsyncEngine:
    connect_args = _connect_args(url, settings, openings or Openings())
    return create_async_engine(driver_url(url), poolclass=NullPool, hide_parameters=True, connect_args=connect_args)
