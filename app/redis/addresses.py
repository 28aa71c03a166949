"""Where a Redis is, by its URL. No error repeats the URL: it holds passwords.

    redis://[user:password@]host:6379/0   rediss://…   unix:///path
    redis+sentinel://[user:password@]host:26379,host:26379/service/0[?sentinel_user=…&sentinel_password=…]
    redis+cluster://[user:password@]host:6379,host:6379

`rediss+sentinel://` and `rediss+cluster://` are the same over TLS. User and password before the @ are those of the servers that
hold the data; the Sentinels have their own, in the query. Both are percent-encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from app.domain.errors import SettingsError

_SENTINEL_OPTIONS: Final = frozenset({"sentinel_user", "sentinel_password"})


class Topology(Enum):
    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_TOPOLOGIES: Final[Mapping[str, Topology]] = MappingProxyType(
    {
        "unix": Topology.SERVER,
        "redis": Topology.SERVER,
        "rediss": Topology.SERVER,
        "redis+sentinel": Topology.SENTINEL,
        "rediss+sentinel": Topology.SENTINEL,
        "redis+cluster": Topology.CLUSTER,
        "rediss+cluster": Topology.CLUSTER,
    }
)
_DEFAULT_PORTS: Final[Mapping[Topology, int]] = MappingProxyType(
    {Topology.SERVER: 6379, Topology.SENTINEL: 26379, Topology.CLUSTER: 6379}
)


@dataclass(frozen=True, slots=True)
class Login:
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """`hosts` are the Sentinels, or the nodes that are asked for the others of a cluster. redis-py reads the URL of a single
    server itself, so `hosts` is empty then. `service` and `database` are given for Sentinel only."""

    url: str = field(repr=False)
    topology: Topology
    uses_tls: bool
    hosts: tuple[tuple[str, int], ...] = ()
    login: Login = Login()
    sentinel_login: Login = Login()
    service: str = ""
    database: int = 0


def parse_address(url: str, setting: str) -> RedisAddress:
    """`setting` is where the URL is configured. Raises SettingsError for a URL of another form."""
    try:
        parts = urlsplit(url)
        topology = _TOPOLOGIES.get(parts.scheme)
        if topology is None:
            schemes = [f"{scheme}://" for scheme in _TOPOLOGIES]
            raise SettingsError(setting, f"must begin with {', '.join(schemes[:-1])} or {schemes[-1]}")
        uses_tls = parts.scheme.startswith("rediss")
        if topology is Topology.SERVER:
            parts.port  # noqa: B018  # reading it checks it
            return RedisAddress(url, topology, uses_tls, login=Login(_unquoted(parts.username), _unquoted(parts.password)))
        options = _options(parts, topology, setting)
        service, database = _service(parts, setting) if topology is Topology.SENTINEL else ("", 0)
        return RedisAddress(
            url,
            topology,
            uses_tls,
            _hosts(parts.netloc, _DEFAULT_PORTS[topology], setting),
            Login(_unquoted(parts.username), _unquoted(parts.password)),
            Login(options.get("sentinel_user"), options.get("sentinel_password")),
            service,
            database,
        )
    except ValueError:
        raise SettingsError(setting, "must be a URL with valid hosts, ports and database") from None


def _options(parts: SplitResult, topology: Topology, setting: str) -> Mapping[str, str]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = _SENTINEL_OPTIONS if topology is Topology.SENTINEL else frozenset[str]()
    if options.keys() - known:
        right = f"known are {' and '.join(sorted(known))}" if known else "a cluster has none"
        raise SettingsError(setting, f"the URL has an unknown option after the question mark; {right}")
    return options


def _service(parts: SplitResult, setting: str) -> tuple[str, int]:
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise SettingsError(setting, f"must name a service: {parts.scheme}://host:26379/service")
    return unquote(service), int(database or 0)


def _hosts(netloc: str, port: int, setting: str) -> tuple[tuple[str, int], ...]:
    hosts = [urlsplit(f"//{host}") for host in netloc.rpartition("@")[2].split(",")]
    if not all(host.hostname for host in hosts):
        raise SettingsError(setting, "must not name an empty host")
    return tuple((host.hostname or "", host.port or port) for host in hosts)


def _unquoted(text: str | None) -> str | None:
    return unquote(text) if text else None
