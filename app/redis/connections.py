"""The connections of redis-py to one server, Sentinel or Cluster, with and without TLS.

Their own time limits are wide: RedisClient limits how long a caller waits, and ends what it has begun. A connection is tried
once more if it died in the pool, and at once; never after a time limit, when the server may have acted.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.domain.errors import SettingsError
from app.redis.addresses import Login, RedisAddress

Server: TypeAlias = "Redis | RedisCluster"
Options: TypeAlias = dict[str, Any]

POOL_SIZE: Final = 50
"""Connections to one server that callers use at once. One more is for the search of the server."""
_LOGINS = 3
"""How many logins are kept: that in the settings now, and those before it."""
_PATIENCE = 2
"""So many times as long as a caller a connection waits, so that one that is slow to be made is there for the next caller."""


class Credentials(CredentialProvider):
    """The login of new connections. After a change, those before can be taken back if the server refuses the new one: the one
    before may be wrong too."""

    def __init__(self, login: Login) -> None:
        self._logins = [login]

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """In the form of redis-py."""
        login = self._logins[0]
        assert login.password is not None
        return (login.password,) if login.user is None else (login.user, login.password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()

    def change(self, login: Login) -> None:
        self._logins = [login, *(each for each in self._logins if each != login)][:_LOGINS]

    def exchange(self) -> None:
        """Goes on with the next login if there is one."""
        self._logins.append(self._logins.pop(0))


class _SharedContext:
    """Every connection uses one TLS context. To make a context takes 50 ms, in which the event loop would stand still."""

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        cast(SSLConnection, self).ssl_context.context = tls


class _TlsConnection(_SharedContext, SSLConnection):
    pass


class _PrimaryTlsConnection(_SharedContext, SentinelManagedSSLConnection):
    pass


class _Sentinels(Sentinel):
    """Its failure says what the Sentinels answered. Without this, redis-py gives the names of the errors only."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Returns the primary that the first Sentinel knows to be up. That Sentinel is asked first the next time."""
        problems: list[str] = []
        for place, sentinel in enumerate(self.sentinels):
            try:
                primaries: Any = await sentinel.sentinel_masters()
            except (RedisConnectionError, RedisTimeoutError, NoPermissionError) as error:
                problems.append(str(error))
                continue
            primary = primaries.get(service_name)
            if primary and self.check_master_state(primary, service_name):
                self.sentinels[0], self.sentinels[place] = sentinel, self.sentinels[0]
                return primary["ip"], primary["port"]
            problems.append(f"a Sentinel knows no primary of {service_name} that is up")
        raise MasterNotFoundError("; ".join(dict.fromkeys(problems)))


def credentials_of(address: RedisAddress) -> Credentials | None:
    """None if the server needs no password."""
    return None if address.login.password is None else Credentials(address.login)


def open_server(address: RedisAddress, tls_ca: Path | None, setting: str, credentials: Credentials | None) -> Redis:
    """The connections have no time limits of their own."""
    no_limits: Options = {"socket_timeout": None, "socket_connect_timeout": None, "retry": _retry()}
    try:
        pool = BlockingConnectionPool.from_url(address.url, max_connections=POOL_SIZE, timeout=None, **no_limits)
        if address.uses_tls:
            _share_context(pool, tls_ca, setting)
        if credentials is not None:
            pool.connection_kwargs |= {"username": None, "password": None, "credential_provider": credentials}
        pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's own gap
    except (RedisError, TypeError, ValueError):
        raise SettingsError(setting, "the URL has an option that is unknown or has a wrong value") from None
    return Redis.from_pool(pool)


def open_sentinel(
    address: RedisAddress, seconds: float, tls_ca: Path | None, setting: str, credentials: Credentials | None
) -> tuple[Redis, list[Redis]]:
    """The server that is primary at the time, and the Sentinels; both are to be closed. `seconds` is how long a caller waits."""
    tls = tls_context(tls_ca, setting) if address.uses_tls else None
    options = _limits(seconds)
    sentinel = _Sentinels([])  # type: ignore[no-untyped-call]  # redis-py's own gap
    for host, port in address.hosts:
        kind: Options = {"connection_class": _TlsConnection, "tls": tls} if tls else {"connection_class": Connection}
        pool = ConnectionPool(host=host, port=port, **kind, **options, **_login(address.sentinel_login))
        sentinel.sentinels.append(Redis.from_pool(pool))
    managed: Options = (
        {"connection_class": _PrimaryTlsConnection, "tls": tls} if tls else {"connection_class": SentinelManagedConnection}
    )
    primaries = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # redis-py's own gap
        address.service,
        sentinel,
        db=address.database,
        max_connections=POOL_SIZE + 1,
        **managed,
        **options,
        credential_provider=credentials,
    )
    return Redis.from_pool(primaries), sentinel.sentinels


def open_cluster(
    address: RedisAddress, seconds: float, tls_ca: Path | None, setting: str, credentials: Credentials | None
) -> RedisCluster:
    """`seconds` is how long a caller waits."""
    cluster = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
        max_connections=POOL_SIZE + 1,
        **_limits(seconds),
        credential_provider=credentials,
    )
    if address.uses_tls:
        tls = tls_context(tls_ca, setting)
        cluster.connection_kwargs |= {"connection_class": _TlsConnection, "tls": tls}
        for node in cluster.startup_nodes:
            node.connection_class = _TlsConnection
            node.connection_kwargs["tls"] = tls
    return cluster


async def close_nodes(cluster: RedisCluster) -> None:
    """Closes the connections also after a failure. Then redis-py's own `aclose` does nothing, because it will look for the nodes
    again."""
    await cluster.nodes_manager.aclose()
    await cluster.nodes_manager.aclose("startup_nodes")


def tls_context(tls_ca: Path | None, setting: str) -> ssl.SSLContext:
    """Trusts the authorities in the file and no others, or the system's without a file. Raises SettingsError."""
    try:
        return ssl.create_default_context(cafile=tls_ca)
    except OSError as error:
        problem = "it holds no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(f"{setting.rpartition('.')[0]}.tls_ca", f"{tls_ca}: {problem}") from None


def _share_context(pool: ConnectionPool, tls_ca: Path | None, setting: str) -> None:
    """The URL of one server may hold options of TLS (`ssl_…`) as redis-py knows them."""
    written = {name: value for name, value in pool.connection_kwargs.items() if name.startswith("ssl_")}
    if written and tls_ca is not None:
        raise SettingsError(f"{setting.rpartition('.')[0]}.tls_ca", "the URL has options of TLS (ssl_…) too; use one of the two")
    tls = SSLConnection(**written).ssl_context.get() if written else tls_context(tls_ca, setting)
    pool.connection_class = _TlsConnection
    pool.connection_kwargs["tls"] = tls


def _limits(seconds: float) -> Options:
    patience = seconds * _PATIENCE
    return {"socket_timeout": patience, "socket_connect_timeout": patience, "retry": _retry()}


def _login(login: Login) -> Options:
    return {"username": login.user, "password": login.password}


def _retry() -> Retry:
    return Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
