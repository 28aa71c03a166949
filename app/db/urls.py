"""Where a PostgreSQL is, by its URL in libpq's form. No error repeats the URL: it holds a password.

    postgresql://[user[:password]@]host[:5432][,host[:5432]…]/database[?sslmode=verify-full&sslrootcert=/path/ca.pem]
    postgresql://[user[:password]@]/database?host=/var/run/postgresql

User, password and database are percent-encoded. Several hosts are the servers of one cluster. A host that begins with a slash is
the folder of a Unix socket.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from app.domain.errors import SettingsError
from app.settings import DatabaseSettings

DEFAULT_PORT: Final = 5432
_MAX_PORT: Final = 65535
_SCHEMES: Final = ("postgresql", "postgres", "postgresql+asyncpg")
_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_VERIFYING: Final = ("verify-ca", "verify-full")
_TLS: Final = ("sslmode", "sslrootcert", "sslcert", "sslkey")
_KNOWN: Final = (*_TLS, "host", "port")
_OF_THE_PRIMARY: Final = ("primary", "read-write")
"""The values of target_session_attrs that ask for what is done anyway."""
_FORM: Final = re.compile(
    r"(?P<scheme>[\w+]+)://(?:(?P<user>[^:/@?]*)(?::(?P<password>[^@]*))?@)?"
    r"(?P<hosts>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?"
)
"""A password may hold a slash or a question mark that is not encoded, as it always could."""


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """`hosts` has one or more. `tls` has libpq's parameters. What is None is taken from the environment, as libpq does it."""

    hosts: tuple[Host, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    tls: Mapping[str, str] = field(default_factory=dict)

    def at(self, host: Host) -> DatabaseUrl:
        """The same database on one host alone."""
        return replace(self, hosts=(host,))

    def servers(self) -> tuple[DatabaseUrl, ...]:
        """One URL for each host."""
        return tuple(self.at(host) for host in self.hosts)

    @property
    def login(self) -> dict[str, str]:
        """The arguments of `asyncpg.connect` that say who connects."""
        return {name: value for name, value in (("user", self.user), ("password", self.password)) if value is not None}

    def connect_arguments(self) -> dict[str, Any]:
        """The arguments of `asyncpg.connect`. With several hosts, it connects to the one that is not in recovery."""
        arguments: dict[str, Any] = {
            "host": [host.name for host in self.hosts],
            "port": [host.port for host in self.hosts],
            "user": self.user,
            "password": self.password,
            "database": self.database,
        }
        if self.tls:
            arguments["dsn"] = f"postgresql://?{urlencode(self.tls)}"
        if len(self.hosts) > 1:
            arguments["target_session_attrs"] = "primary"
        return {name: value for name, value in arguments.items() if value is not None}


def parse_database_url(url: str, setting: str) -> DatabaseUrl:
    """`setting` is where the URL is configured. Raises SettingsError for another form, a host that is empty or there twice, an
    unknown parameter, and a file of TLS that cannot be used."""
    found = _FORM.fullmatch(url)
    if found is None or found["scheme"] not in _SCHEMES:
        raise SettingsError(setting, "must have the form postgresql://user:password@host:5432/database")
    parameters = _parameters(found["query"] or "", setting)
    if found["hosts"] and "host" in parameters:
        raise SettingsError(setting, "names hosts before the path and in the parameter host; name them once")
    tls: dict[str, str] = {name: parameters[name] for name in _TLS if name in parameters}
    _check_tls(tls, setting)
    return DatabaseUrl(
        _hosts(found["hosts"] or parameters.get("host", ""), parameters.get("port", ""), setting),
        _unquoted(found["user"]),
        _unquoted(found["password"]),
        _unquoted(found["database"]),
        tls,
    )


def database_urls(settings: DatabaseSettings) -> Iterator[tuple[str, DatabaseUrl]]:
    """Each configured URL with its setting. Raises SettingsError with the place of the first wrong URL."""
    named = {"database.primary": settings.primary, "database.owner": settings.owner, "database.direct": settings.direct}
    named |= {f"database.replicas[{index}]": replica for index, replica in enumerate(settings.replicas)}
    for setting, url in named.items():
        if url is not None:
            yield setting, parse_database_url(url.reveal(), setting)


def check_database_urls(settings: DatabaseSettings) -> None:
    """Whether a server answers there does not matter. Raises SettingsError with the place of the first wrong URL."""
    for _ in database_urls(settings):
        pass


def _parameters(query: str, setting: str) -> dict[str, str]:
    """A parameter that is there several times is a list, as `host=a&host=b`. `ssl` is SQLAlchemy's name of `sslmode`."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "target_session_attrs" and value in _OF_THE_PRIMARY:
            continue
        if name not in (*_KNOWN, "ssl"):
            raise SettingsError(setting, f"has the unknown parameter {name}; known are {', '.join(_KNOWN)}")
        known = "sslmode" if name == "ssl" else name
        found[known] = f"{found[known]},{value}" if known in found else value
    return found


def _hosts(text: str, ports: str, setting: str) -> tuple[Host, ...]:
    if "@" in text:
        raise SettingsError(setting, "has an @ in its user or password; write it as %40")
    separate = ports.split(",") if ports else []
    names = text.split(",")
    if len(separate) not in {0, 1, len(names)}:
        raise SettingsError(setting, "has another number of ports than of hosts")
    hosts: list[Host] = []
    for position, name in enumerate(names, start=1):
        host = _host(name, separate[(position - 1) % len(separate)] if separate else "", position, setting)
        if host in hosts:
            raise SettingsError(setting, f"names the host {host} twice")
        hosts.append(host)
    return tuple(hosts)


def _host(text: str, port: str, position: int, setting: str) -> Host:
    """A port after the name counts more than `port`. An IPv6 address has brackets in front of its port."""
    name = unquote(text)
    if not name.startswith("/"):
        try:
            parts = urlsplit(f"//{text}")
            name, port = unquote(parts.hostname or ""), str(parts.port) if parts.port is not None else port
        except ValueError:
            raise SettingsError(setting, f"has a wrong port or address at host {position}") from None
    if not name:
        raise SettingsError(setting, f"host {position} is empty; a Unix socket is written ?host=/var/run/postgresql")
    if port and not (port.isdecimal() and 1 <= int(port) <= _MAX_PORT):
        raise SettingsError(setting, f"the port of host {name} must be from 1 to {_MAX_PORT}")
    return Host(name, int(port or DEFAULT_PORT))


def _check_tls(tls: Mapping[str, str], setting: str) -> None:
    mode = tls.get("sslmode", "prefer")
    if mode not in _MODES:
        raise SettingsError(setting, f"the parameter sslmode must be one of {', '.join(_MODES)}")
    if ("sslcert" in tls) != ("sslkey" in tls):
        raise SettingsError(setting, "needs both parameters sslcert and sslkey, or neither")
    authority = tls.get("sslrootcert") or (_authority_of_the_user() if mode in _VERIFYING else None)
    if mode in _VERIFYING and authority is None:
        raise SettingsError(setting, f"has sslmode={mode}, which needs sslrootcert, a PEM file of the authorities that sign")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if authority is not None:
            context.load_verify_locations(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(setting, f"the file of sslrootcert cannot be used: {_reason(error)}") from None
    try:
        if "sslcert" in tls:
            context.load_cert_chain(tls["sslcert"], tls["sslkey"], password="")
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(setting, f"the files of sslcert and sslkey cannot be used: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _authority_of_the_user() -> str | None:
    """Where libpq looks if the URL has no sslrootcert."""
    named = os.environ.get("PGSSLROOTCERT")
    with suppress(RuntimeError):
        named = named or next((str(file) for file in [Path.home() / ".postgresql" / "root.crt"] if file.is_file()), None)
    return named


def _unquoted(text: str | None) -> str | None:
    return unquote(text) if text else None
