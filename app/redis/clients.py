"""Connections to Redis: one server, Sentinel or Cluster, by their URL.

Redis holds copies and coordination. If it is away, the service gets slower but never fails. No request to Redis takes longer than
tenths of a second, and after the first failures no caller waits for it until it answers again. The timeouts for a single server
are measured here, so a delay of our own event loop does not count as one of Redis. Every failure is StoreUnavailable, also the
refusal of a server that answers and takes no writes.

    redis://host:6379/0   rediss://…   unix:///path
    redis+sentinel://[user:password@]host:26379,host:26379/service/0
    redis+cluster://[user:password@]host:6379,host:6379
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar, cast
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
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
from app.runtime.await_timeout import TimeLimit
from app.runtime.clock import Clock
from app.settings import RedisSettings

Server: TypeAlias = "Redis | RedisCluster"
Result = TypeVar("Result")

_POOL_SIZE = 50
_FAILURES = 3
_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 2.0
_LOG_EVERY_SECONDS = 60.0
_AWAY = (
    RedisConnectionError,
    RedisTimeoutError,
    OSError,
    ReadOnlyError,
    ClusterDownError,
    RedisClusterException,
    TryAgainError,
    BusyLoadingError,
)

_TAKES_NO_WRITES = ("MISCONF ", "NOREPLICAS ")
_log = logging.getLogger(__name__)


class Script:
    """A Lua script of this package. It uses only the one key that it is given, so it also runs in a cluster."""

    def __init__(self, name: str) -> None:
        self.text = (Path(__file__).parent / "scripts" / f"{name}.lua").read_text(encoding="utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class RedisClient:
    """One pool with a breaker. After three failures in a row, one try per pause is allowed."""

    def __init__(self, server: Server, clock: Clock, *, seconds: float | None = None, sentinels: Sequence[Redis] = ()) -> None:
        """`seconds` is the time limit of every request. None if the server's own sockets have time limits."""
        self._server = server
        self._seconds = seconds
        self._sentinels = sentinels
        self._clock = clock
        self._failures = 0
        self._pause = _FIRST_PAUSE_SECONDS
        self._closed_until = 0.0
        self._logged_at = float("-inf")

    @property
    def available(self) -> bool:
        """False while every call is refused at once."""
        return self._failures < _FAILURES or self._clock.monotonic() >= self._closed_until

    async def execute(self, act: Callable[[Server], Awaitable[Result]]) -> Result:
        """Returns the result of `act`. Raises StoreUnavailable if the server is away, at once if that is already known."""
        if not self.available:
            raise StoreUnavailable("Redis")
        if self._failures >= _FAILURES:
            self._closed_until = self._clock.monotonic() + self._pause
        try:
            result = await self._act(act)
        except _AWAY as error:
            self._failed()
            raise StoreUnavailable("Redis") from error
        except ResponseError as error:
            if not _takes_no_writes(error):
                raise
            self._log_refusal(error)
            raise StoreUnavailable("Redis") from error
        self._failures = 0
        self._pause = _FIRST_PAUSE_SECONDS
        return result

    async def evaluate(self, script: Script, key: str, *arguments: str | float | bytes) -> object:
        """Runs the script by its hash and returns its result. The text is sent if the server does not have the script."""

        async def act(server: Server) -> object:
            try:
                return cast(object, await server.evalsha(script.sha, 1, key, *arguments))
            except NoScriptError:
                return cast(object, await server.eval(script.text, 1, key, *arguments))

        return await self.execute(act)

    async def close(self) -> None:
        for server in (self._server, *self._sentinels):
            await server.aclose()

    def _log_refusal(self, refusal: ResponseError) -> None:
        now = self._clock.monotonic()
        if now - self._logged_at >= _LOG_EVERY_SECONDS:
            self._logged_at = now
            _log.warning("Redis takes no writes", extra={"reason": str(refusal)})

    async def _act(self, act: Callable[[Server], Awaitable[Result]]) -> Result:
        if self._seconds is None:
            return await act(self._server)
        limit = TimeLimit()
        try:
            with limit.of(self._seconds):
                return await act(self._server)
        finally:
            limit.close()

    def _failed(self) -> None:
        self._failures += 1
        if self._failures >= _FAILURES:
            self._closed_until = self._clock.monotonic() + self._pause
            self._pause = min(_MAX_PAUSE_SECONDS, self._pause * 2)


def connect_redis(url: str, settings: RedisSettings, clock: Clock, *, setting: str = "redis.url") -> RedisClient:
    """`setting` is where the URL is configured. Connects at the first use. Raises SettingsError for a URL of another form."""
    seconds = settings.socket_timeout.total_seconds()
    scheme = url.partition("://")[0]
    if scheme in {"redis", "rediss", "unix"}:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_POOL_SIZE,
            timeout=None,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=_retry(),
        )
        return RedisClient(Redis.from_pool(pool), clock, seconds=seconds)
    if scheme == "redis+sentinel":
        sentinel = _sentinel(url, seconds)
        return RedisClient(_primary(sentinel, url, seconds), clock, sentinels=sentinel.sentinels)
    if scheme == "redis+cluster":
        return RedisClient(_cluster(url, seconds), clock)
    raise SettingsError(setting, "must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")


def _takes_no_writes(error: ResponseError) -> bool:
    """Whether the server is full, cannot save, or has too few replicas. In a pipeline the text begins with the command."""
    return isinstance(error, OutOfMemoryError) or any(word in str(error) for word in _TAKES_NO_WRITES)


def _retry() -> Retry:
    """One more try on a connection that died in the pool. Never after a timeout, because the server may have acted."""
    return Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))


def _sentinel(url: str, seconds: float) -> Sentinel:
    times = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    hosts = _hosts(urlsplit(url).netloc, 26379)
    return Sentinel(hosts, sentinel_kwargs=times)  # type: ignore[no-untyped-call]  # the SDK's own gap


def _primary(sentinel: Sentinel, url: str, seconds: float) -> Redis:
    parts = urlsplit(url)
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise SettingsError("redis.url", "names no service: redis+sentinel://host:26379/service")
    primary = sentinel.master_for(
        service,
        db=int(database or 0),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        max_connections=_POOL_SIZE,
        retry=_retry(),
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
    )
    return cast(Redis, primary)


def _cluster(url: str, seconds: float) -> RedisCluster:
    parts = urlsplit(url)
    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in _hosts(parts.netloc, 6379)],
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        max_connections=_POOL_SIZE,
    )


def _hosts(netloc: str, port: int) -> list[tuple[str, int]]:
    hosts = [urlsplit(f"//{host}") for host in netloc.rpartition("@")[2].split(",")]
    if not all(host.hostname for host in hosts):
        raise SettingsError("redis.url", "has an empty host name")
    return [(host.hostname or "", host.port or port) for host in hosts]
