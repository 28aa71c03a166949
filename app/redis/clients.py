"""Clients of Redis: one server, Sentinel or Cluster, by their URL (`addresses.py`).

Redis holds copies and coordination, so its outage may slow the service down and never break it: no caller waits longer than
`socket_timeout`, and after the first failures no caller waits for it until it answers again. The time is taken here, so
that a delay of our own event loop is not taken for one of Redis. Every failure is StoreUnavailable, also the refusal of a server
that answers and takes no writes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.domain.errors import SettingsError, StoreUnavailable
from app.redis.addresses import Topology, parse_address
from app.redis.connections import (
    POOL_SIZE,
    Credentials,
    Server,
    close_nodes,
    credentials_of,
    open_cluster,
    open_sentinel,
    open_server,
)
from app.runtime.await_timeout import TimeLimit
from app.runtime.clock import Clock
from app.runtime.outage_breaker import OutageBreaker
from app.runtime.tasks import create_shared_task, end_tasks
from app.settings import RedisSettings

__all__ = ["RedisClient", "Script", "Server", "connect_redis"]

Result = TypeVar("Result")

_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 2.0
_AWAY = (
    RedisConnectionError,
    RedisTimeoutError,
    OSError,
    ReadOnlyError,
    ClusterDownError,
    RedisClusterException,
    TryAgainError,
    BusyLoadingError,
    NoPermissionError,
)

_TAKES_NO_WRITES = ("MISCONF ", "NOREPLICAS ")
_log = logging.getLogger(__name__)


class Script:
    """A Lua script of this package. It uses only the one key that it is given, so it also runs in a cluster."""

    def __init__(self, name: str) -> None:
        self.text = (Path(__file__).parent / "scripts" / f"{name}.lua").read_text(encoding="utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class RedisClient:
    """One pool with a breaker."""

    def __init__(
        self,
        server: Server,
        clock: Clock,
        *,
        seconds: float,
        setting: str = "redis.url",
        sentinels: Sequence[Redis] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """`seconds` is how long a caller waits. `setting` names the server in the log. The pool of a server alone makes callers
        wait; those of Sentinel and Cluster fail if they have no connection left, so their callers wait here."""
        self._server = server
        self._seconds = seconds
        self._setting = setting
        self._sentinels = sentinels
        self._credentials = credentials
        self._clock = clock
        self._breaker = OutageBreaker(clock, first_pause=_FIRST_PAUSE_SECONDS, max_pause=_MAX_PAUSE_SECONDS)
        self._takes_writes = True
        self._is_single = sentinels is None and isinstance(server, Redis)
        self._places = asyncio.Semaphore(POOL_SIZE)
        self._search: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._observe: Callable[[float], object] | None = None

    @property
    def available(self) -> bool:
        """False while every call is refused at once."""
        return self._breaker.available

    async def execute(self, act: Callable[[Server], Awaitable[Result]], *, writes: bool = False) -> Result:
        """Returns the result of `act`. `writes`: whether its success shows that the server takes writes. Raises StoreUnavailable
        if the server is away, at once if that is already known."""
        if not self._breaker.admit():
            raise StoreUnavailable("Redis")
        begun = self._clock.monotonic()
        try:
            result = await self._act(act)
        except _AWAY as error:
            if isinstance(error, AuthenticationError) and self._credentials is not None:
                self._credentials.exchange()
            self._failed(error)
            raise StoreUnavailable("Redis") from error
        except ResponseError as error:
            if not _takes_no_writes(error):
                raise
            self._refused(error)
            raise StoreUnavailable("Redis") from error
        finally:
            if self._observe is not None:
                self._observe(self._clock.monotonic() - begun)
        self._succeeded(wrote=writes)
        return result

    def observe_with(self, observe: Callable[[float], object]) -> None:
        """From now on `observe` gets the seconds that each call took, with the time that it waited for a connection."""
        self._observe = observe

    async def evaluate(self, script: Script, key: str, *arguments: str | float | bytes) -> object:
        """Runs the script by its hash and returns its result. The text is sent if the server does not have the script."""

        async def act(server: Server) -> object:
            try:
                return cast(object, await server.evalsha(script.sha, 1, key, *arguments))
            except NoScriptError:
                return cast(object, await server.eval(script.text, 1, key, *arguments))

        return await self.execute(act, writes=True)

    def take_url(self, text: str) -> None:
        """Takes the login of a URL that has changed: new connections use it, idle ones are closed. If the server refuses it, the
        login before goes on. Raises SettingsError if there was or is no password."""
        address = parse_address(text, self._setting)
        if self._credentials is None or address.login.password is None:
            raise SettingsError(self._setting, "a password that is new or left out needs a restart")
        self._credentials.change(address.login)
        if isinstance(self._server, Redis):
            self._renewal = create_shared_task(self._server.connection_pool.disconnect(inuse_connections=False))

    async def close(self) -> None:
        if self._renewal is not None:
            await end_tasks([self._renewal])
        if self._search is not None:
            await end_tasks([self._search])
        for server in (self._server, *(self._sentinels or ())):
            await server.aclose()
        if isinstance(self._server, RedisCluster):
            await close_nodes(self._server)

    async def _act(self, act: Callable[[Server], Awaitable[Result]]) -> Result:
        """Before redis-py knows the nodes of a cluster it sends scripts to any of them, so it looks for the nodes first."""
        limit = TimeLimit()
        try:
            with limit.of(self._seconds):
                if self._is_single:
                    return await act(self._server)
                async with self._places:
                    if isinstance(self._server, RedisCluster):
                        await self._server.initialize()
                    return await act(self._server)
        except TimeoutError:
            if not self._is_single:
                self._start_search()
            raise
        finally:
            limit.close()

    def _start_search(self) -> None:
        """To ask one Sentinel or node after the other which server it is may take longer than a caller waits."""
        if self._search is None or self._search.done():
            self._search = create_shared_task(self._find_server())

    async def _find_server(self) -> None:
        """A node of a cluster that hangs keeps its connections open, and redis-py goes on using it after another one has replaced
        it. So the nodes are asked again which of them has which slots."""
        with suppress(*_AWAY):
            if isinstance(self._server, RedisCluster):
                await self._server.initialize()
                await self._server.nodes_manager.initialize()
            else:
                await self._server.ping()

    def _failed(self, error: Exception) -> None:
        if self._breaker.failed():
            reason = str(error) or f"no answer within {self._seconds:g} s"
            _log.warning("Redis does not answer", extra={"setting": self._setting, "reason": reason})

    def _succeeded(self, *, wrote: bool) -> None:
        if self._breaker.succeeded():
            _log.warning("Redis answers again", extra={"setting": self._setting})
        if wrote and not self._takes_writes:
            self._takes_writes = True
            _log.warning("Redis takes writes again", extra={"setting": self._setting})

    def _refused(self, refusal: ResponseError) -> None:
        if self._takes_writes:
            self._takes_writes = False
            _log.warning("Redis takes no writes", extra={"setting": self._setting, "reason": str(refusal)})


def connect_redis(url: str, settings: RedisSettings, clock: Clock, *, setting: str = "redis.url") -> RedisClient:
    """Connects at the first use. `setting` is where the URL is configured. Raises SettingsError for a URL of another form, and
    for a file of authorities that cannot be used."""
    seconds, tls_ca = settings.socket_timeout.total_seconds(), settings.tls_ca
    address = parse_address(url, setting)
    if tls_ca is not None and not address.uses_tls:
        raise SettingsError(f"{setting.rpartition('.')[0]}.tls_ca", f"{setting} uses no TLS; it must begin with rediss")
    credentials = credentials_of(address)
    server: Server
    sentinels: Sequence[Redis] | None = None
    match address.topology:
        case Topology.SERVER:
            server = open_server(address, tls_ca, setting, credentials)
        case Topology.SENTINEL:
            server, sentinels = open_sentinel(address, seconds, tls_ca, setting, credentials)
        case Topology.CLUSTER:
            server = open_cluster(address, seconds, tls_ca, setting, credentials)
    return RedisClient(server, clock, seconds=seconds, setting=setting, sentinels=sentinels, credentials=credentials)


def _takes_no_writes(error: ResponseError) -> bool:
    """Whether the server is full, cannot save, or has too few replicas. In a pipeline the text begins with the command."""
    return isinstance(error, OutOfMemoryError) or any(word in str(error) for word in _TAKES_NO_WRITES)
